"""Golden values of the divergences, by mpmath at 50 digits from each definition: python divergences.py writes the JSON.

Nothing here is shared with dvfl: probabilities are exponentials over their sum, expressions are those of the papers,
and a mean is a sum over a count.
"""

import json
import random
from pathlib import Path

from mpmath import exp, log, mp, mpf, sqrt

mp.dps = 50
FILE = Path(__file__).with_suffix(".json")
CASES = [  # batch, classes, temperature, parameters of the divergences that have some
    (4, 6, 1, {"alpha_divergence": {"order": 0.5, "skew": 0.1}, "dkd": {"alpha": 1, "beta": 8}, "dist": {}}),
    (3, 5, 4, {"alpha_divergence": {"order": 0.25, "skew": 0}, "dkd": {"alpha": 0.5, "beta": 2}, "dist": {"beta": 2}}),
    (5, 12, 10, {"alpha_divergence": {"order": 1, "skew": 0.3}, "dkd": {}, "dist": {"beta": 0.5, "gamma": 3}}),
]


def softmax(logits, temperature):
    powers = [exp(z / temperature) for z in logits]
    return [power / sum(powers) for power in powers]


def mean(values):
    return sum(values, mpf(0)) / len(values)


def kl(p, q):
    return sum(a * log(a / b) for a, b in zip(p, q, strict=True))


def cosine_of(a, b):
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / sqrt(sum(x * x for x in a)) / sqrt(sum(y * y for y in b))


def pearson(a, b):
    return cosine_of([x - mean(a) for x in a], [y - mean(b) for y in b])


def z_scores(logits):
    deviation = sqrt(sum((z - mean(logits)) ** 2 for z in logits) / (len(logits) - 1))
    return [(z - mean(logits)) / (deviation + mpf("1e-7")) for z in logits]


def amari(p, q, order, skew):
    m = [(1 - skew) * b + skew * a for a, b in zip(p, q, strict=True)]
    if order == 1:
        return kl(p, m)
    return (sum(a**order * b ** (1 - order) for a, b in zip(p, m, strict=True)) - 1) / (order * (order - 1))


def decoupled(p, q, label, alpha, beta):
    target = kl([p[label], 1 - p[label]], [q[label], 1 - q[label]])
    rest = [[a / (1 - r[label]) for i, a in enumerate(r) if i != label] for r in (p, q)]
    return alpha * target + beta * kl(*rest)


def values(student, teacher, labels, temperature, parameters):
    """Each divergence by name, without T^2."""
    p_rows = [softmax(row, temperature) for row in teacher]
    q_rows = [softmax(row, temperature) for row in student]
    pairs = list(zip(p_rows, q_rows, strict=True))
    logits = list(zip(teacher, student, strict=True))
    middle = [[(a + b) / 2 for a, b in zip(p, q, strict=True)] for p, q in pairs]
    columns = zip(zip(*p_rows, strict=True), zip(*q_rows, strict=True), strict=True)
    amaris = {key: mpf(value) for key, value in parameters["alpha_divergence"].items()}
    of_dkd = {key: mpf(value) for key, value in ({"alpha": 1, "beta": 8} | parameters["dkd"]).items()}
    of_dist = {key: mpf(value) for key, value in ({"beta": 1, "gamma": 1} | parameters["dist"]).items()}
    inter = mean([1 - pearson(p, q) for p, q in pairs])
    intra = mean([1 - pearson(p, q) for p, q in columns])
    return {
        "forward_kl": mean([kl(p, q) for p, q in pairs]),
        "reverse_kl": mean([kl(q, p) for p, q in pairs]),
        "symmetric_kl": mean([(kl(p, q) + kl(q, p)) / 2 for p, q in pairs]),
        "jensen_shannon": mean([(kl(p, m) + kl(q, m)) / 2 for (p, q), m in zip(pairs, middle, strict=True)]),
        "alpha_divergence": mean([amari(p, q, **amaris) for p, q in pairs]),
        "squared_logits": mean(
            [mean([((t - s) / temperature) ** 2 for t, s in zip(*rows, strict=True)]) / 2 for rows in logits]
        ),
        "cosine": mean([1 - cosine_of(p, q) for p, q in pairs]),
        "standardised_logits": mean(
            [kl(softmax(z_scores(t), temperature), softmax(z_scores(s), temperature)) for t, s in logits]
        ),
        "dkd": mean([decoupled(p, q, y, **of_dkd) for (p, q), y in zip(pairs, labels, strict=True)]),
        "dist": of_dist["beta"] * inter + of_dist["gamma"] * intra,
        "released_code": mean([sum(a * (log(a) - b) for a, b in zip(p, q, strict=True)) for p, q in pairs]),
    }


def compute():
    """The cases with their logits (three decimals) and values, as the JSON holds them."""
    draw = random.Random(6)
    cases = []
    for batch, classes, temperature, parameters in CASES:
        student, teacher = ([[round(draw.gauss(0, 3), 3) for _ in range(classes)] for _ in range(batch)] for _ in "st")
        labels = [draw.randrange(classes) for _ in range(batch)]
        exact = [[[mpf(str(z)) for z in row] for row in logits] for logits in (student, teacher)]
        found = values(*exact, labels, mpf(temperature), parameters)
        cases.append(
            {"temperature": temperature, "student": student, "teacher": teacher, "labels": labels}
            | {"parameters": parameters, "values": {name: float(value) for name, value in found.items()}}
        )
    return cases


if __name__ == "__main__":
    FILE.write_text("[\n" + ",\n".join(json.dumps(case) for case in compute()) + "\n]\n")
