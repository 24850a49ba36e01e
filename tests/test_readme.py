"""What README says of the released code, held to what the commands say."""

from __future__ import annotations

import re

import pytest

from dvfl.config import PROJECT
from dvfl.config.protocols import findings
from dvfl.distill.released_loss import released_loss


@pytest.fixture(scope="module")
def section() -> str:
    """README's section on the released code."""
    return (PROJECT / "README.md").read_text().split("## What we found in the released code\n")[1].split("\n## ")[0]


def test_it_has_a_line_for_each_finding_with_its_place(section):
    lines = dict(re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", section, flags=re.M))
    assert list(lines) == [finding.id for finding in findings()]
    assert section.lstrip().startswith("Sixteen departures") and len(lines) == 16
    for finding in findings():
        where = lines[finding.id].replace("`", "").rstrip("/")
        assert finding.where.startswith(where) or (where == "configs" and where in finding.where), finding.id


def test_its_figures_of_the_released_loss_are_those_of_the_command(section):
    said = re.search(r"at T = (\d+), (\d+) classes: (\S+) where KL is (\S+); gradient (\d+) times weaker", section)
    temperature, classes, released, kl, weaker = map(float, said.groups())
    found = released_loss([temperature], int(classes)).set_index("loss")
    assert found["value"].round(1).to_dict() == {"forward_kl": kl, "released_code": released}
    assert round(found.at["forward_kl", "gradient"] / found.at["released_code", "gradient"]) == weaker


def test_its_shares_of_leaked_clips_are_those_of_the_finding(section):
    leaked = map(int, re.search(r"(\d+), (\d+) and (\d+) test clips share", section).groups())
    sizes = {"UCF50": 1321, "UCF101": 2630, "HMDB51": 1317}  # of their test lists
    (finding,) = (finding for finding in findings() if finding.id == "leaky_split")
    for clips, (name, size) in zip(leaked, sizes.items(), strict=True):
        assert f"{100 * clips / size:.1f} % ({name})" in finding.finding
