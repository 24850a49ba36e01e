"""Modules that register a user's models: found, imported once, and blamed by file and line."""

import sys
from pathlib import Path

import pytest

from dvfl.models import model_names, plugins, registry
from dvfl.models.plugins import PluginError, import_plugin, plugin_file

REGISTERING = """
from dvfl.models import register_model

@register_model
def {name}(*, num_classes, num_frames, img_size): ...
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder; whatever is registered and imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_builders", dict(registry._builders))
    monkeypatch.setattr(plugins, "_files", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("place", ["mine.py", "models.py", "folder/mine.py"])
def test_a_file_registers_its_models_once(folder, place):
    file = folder / place
    file.parent.mkdir(exist_ok=True)
    file.write_text(REGISTERING.format(name="one") + REGISTERING.format(name="two"))
    for plugin in (place, place, str(file)):
        import_plugin(plugin)
    assert model_names()[-2:] == ["one", "two"]
    assert plugin_file("one") == plugin_file("two") == Path(place)
    assert plugin_file("vfl_net") is None


def test_a_file_may_import_the_modules_beside_it(folder):
    (folder / "beside").mkdir()
    (folder / "beside/my_blocks_for_dvfl.py").write_text("NAME = 'three'")
    (folder / "beside/mine.py").write_text(
        "import my_blocks_for_dvfl\n" + REGISTERING.format(name="three") + "\nassert my_blocks_for_dvfl.NAME == 'three'"
    )
    import_plugin("beside/mine.py")
    assert "three" in model_names()


def test_a_module_is_imported_by_its_name(folder):
    (folder / "my_package_for_dvfl").mkdir()
    (folder / "my_package_for_dvfl/__init__.py").write_text(REGISTERING.format(name="four"))
    sys.path.append(str(folder))
    import_plugin("my_package_for_dvfl")
    import_plugin("my_package_for_dvfl")
    assert model_names()[-1] == "four"
    assert plugin_file("four") is None  # an installed module is no input of a run


@pytest.mark.parametrize(
    ("plugin", "content", "said"),
    [
        ("none.py", None, "none.py: no such file; give a module's name or the path of a .py file"),
        ("no_such_module", None, "no_such_module: cannot be imported: ModuleNotFoundError: No module named"),
        ("bad.py", "\n1 / 0", r"bad.py: cannot be imported: ZeroDivisionError: division by zero \(bad.py, line 2\)$"),
        ("bad.py", "def", r"bad.py: cannot be imported: SyntaxError: .*\(bad.py, line 1\)$"),
        ("taken.py", REGISTERING.format(name="vfl_net"), "ValueError: a model named 'vfl_net' is registered already"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_one_line(folder, plugin, content, said):
    if content is not None:
        (folder / plugin).write_text(content)
    with pytest.raises(PluginError, match=said) as error:
        import_plugin(plugin)
    assert len(str(error.value).splitlines()) == 1


def test_a_file_given_without_its_ending_is_pointed_at(folder):
    (folder / "mine_for_dvfl.py").write_text("")
    with pytest.raises(PluginError, match=r"there is mine_for_dvfl\.py in this folder: is that meant\?"):
        import_plugin("mine_for_dvfl")
