"""Records that look like real ones, with texts that no page must fall for."""

from random import Random
from typing import Any

SCRIPT = "</script><script>window.hacked = 1</script>"
HOSTILE = [
    SCRIPT,
    "<img src=x onerror='window.hacked = 1'>",
    "<!-- <script>",
    "&lt;b&gt; &amp; {{ 7 * 7 }} {n}",
    '=HYPERLINK("x")',
    "\u202eevil\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "line\u2028feed\u2029s\nand\ttabs\0and\x1b[31m",
    "\U0001f469\u200d\U0001f52c emoji \ud800 half",
    "$words ${x} `tick` \\u003c \\",
    "Wort" * 500,
    " ",
    "",
    "\u200b",
]
WORDS = [
    "the",
    "dog",
    "ran",
    "over",
    "a",
    "field",
    "Hund",
    "lief",
    "and",
    "not",
    "但是",
    "كلب",
    "ing",
]
SENTENCE = ["A", " dog", " ran", " over", " the", " wide", " field", "."]
ANSWER = ["Ein", " Hund", " lief", " über", " das", " weite", " Feld", "."]


def layer(
    name: str,
    stack: str,
    index: int,
    *,
    d_model: int,
    d_ff: int,
    neurons: int,
    soft: bool,
    seed: int,
) -> dict[str, Any]:
    """One layer's part of a record."""
    random = Random(seed)
    density = 1.0 if soft else 0.01 + 0.02 * index
    use = [
        0.0 if random.random() < 0.05 else random.paretovariate(1.5) * 0.003 for _ in range(d_ff)
    ]
    counts = [int(400 * 2.0 ** -abs(bin - 5)) for bin in range(20)]
    return {
        "name": name,
        "stack": stack,
        "index": index,
        "activation": "gelu" if soft else "relu",
        "gated": False,
        "exact_zeros": not soft,
        "d_model": d_model,
        "d_ff": d_ff,
        "parameters": 2 * d_model * d_ff + d_model + d_ff,
        "parameters_share": 0.11,
        "flops_per_token": 4 * d_model * d_ff,
        "flops_share": 0.12,
        "tokens": sum(counts),
        "density": {
            "mean": density,
            "least": density / 4,
            "most": min(1.0, density * 5),
            "histogram": {"edges": [bin * density / 5 for bin in range(21)], "counts": counts},
            "by_position": [density * (1 + random.random()) for _ in range(60)],
            "by_token": [
                {"token": text, "count": 90 - at, "density": density * (1 + random.random())}
                for at, text in enumerate(WORDS + HOSTILE)
            ],
        },
        "near": 0.3,
        "candidates": None if soft else {"mean": density + 0.008, "slack": 0.008},
        "dead": use.count(0.0),
        "always": d_ff if soft else 0,
        "use": use,
        "neurons_for_90": 0.04 + 0.01 * index,
        "overlap": 0.2 + 0.03 * index,
        "effective_rank": {
            "input": d_model * 0.7,
            "hidden": d_model * 0.9,
            "output": 0.5 * d_model,
            "sample": 1024,
        },
        "update": None if soft else {"ratio": 0.3 + 0.05 * index, "cosine": -0.1},
        "update_why": "no residual add was seen: " + SCRIPT if soft else None,
        "saves": {
            "computed": {"bytes_share": 0.16, "flops_share": 0.02},
            "measured": {"torch_ms": 0.61, "engine_ms": 0.17, "tokens": 1},
        },
        "neurons": [
            _neuron(random, at * d_ff // neurons, d_ff, use, words=not soft)
            for at in range(neurons)
        ],
    }


def _neuron(
    random: Random, index: int, d_ff: int, use: list[float], *, words: bool
) -> dict[str, Any]:
    def scores() -> list[dict[str, Any]]:
        return [
            {"token": text, "score": random.random()} for text in random.sample(WORDS + HOSTILE, 6)
        ]

    return {
        "index": index,
        "use": use[index],
        "mean": random.random(),
        "norm_share": random.random() / 50,
        "value_norm": 1.2,
        "key_norm": 0.9,
        "bias": -0.3 if words else None,
        "contexts": [
            {
                "value": 3 - at / 4,
                "before": random.choice(HOSTILE)[:40] + " before it the ",
                "token": random.choice(WORDS + HOSTILE),
                "after": " and what comes after",
            }
            for at in range(8)
        ],
        "promotes": scores() if words else None,
        "suppresses": scores() if words else None,
        "neighbours": [{"index": (index * 7 + 1) % d_ff, "cosine": 0.8}],
    }


def record(
    *,
    layers: int = 4,
    d_model: int = 32,
    d_ff: int = 256,
    neurons: int = 16,
    soft: bool = False,
    normed: bool = False,
    sentences: int = 2,
) -> dict[str, Any]:
    """A record in format 1; half of the layers are the encoder's. soft: no exact zeros. normed:
    with a norm before each layer, so that x is not what y is added to.
    """
    random = Random(5)
    names = [("encoder", at) for at in range(layers - layers // 2)]
    names += [("decoder", at) for at in range(layers // 2)]
    found = [
        layer(
            f"{stack}.layers.{at}",
            stack,
            at,
            d_model=d_model,
            d_ff=d_ff,
            neurons=neurons,
            soft=soft,
            seed=n,
        )
        for n, (stack, at) in enumerate(names)
    ]
    total = sum(one["parameters"] for one in found)
    return {
        "format": 1,
        "reluctant": "0.1.0",
        "machine": "a machine <b>",
        "command": "reluctant inspect en-de",
        "model": {
            "name": "en-de <i>",
            "class": "Transformer",
            "kind": "encoder-decoder",
            "parameters": 2 * total,
        },
        "text": {
            "name": "news.txt",
            "bytes": 9000,
            "sequences": 90,
            "tokens": 1500,
            "by_stack": {"encoder": 800, "decoder": 700},
            "seconds": 1.5,
            "whole": False,
            "target": "translated",
        },
        "totals": {
            "parameters": 2 * total,
            "feed_forward_parameters": total,
            "flops_per_token": 4.0 * total,
            "feed_forward_flops_per_token": 2 * total,
            "tokens": 1500,
        },
        "layers": found,
        "sentences": [_sentence(random, found, at) for at in range(sentences)],
        "walk": _walk(random, found[0], soft=soft, normed=normed),
    }


def _sentence(random: Random, layers: list[dict[str, Any]], at: int) -> dict[str, Any]:
    parts = (
        {"encoder": SENTENCE, "decoder": ANSWER}
        if at == 0
        else {"encoder": HOSTILE, "decoder": HOSTILE}
    )
    return {
        "text": "".join(parts["encoder"]),
        "output": "".join(parts["decoder"]),
        "parts": parts,
        "layers": [
            {
                "name": one["name"],
                "stack": one["stack"],
                "tokens": [_used(random, one) for _ in parts[one["stack"]]],
                "without": [
                    {
                        "neuron": one["neurons"][0]["index"],
                        "fired": True,
                        "before": "".join(ANSWER),
                        "after": "Ein Hund rannte " + SCRIPT,
                        "change": 0.12,
                    },
                    {
                        "neuron": one["neurons"][1]["index"],
                        "fired": False,
                        "before": "Ja.",
                        "after": "Ja.",
                        "change": 0.0,
                    },
                ],
            }
            for one in layers
        ],
    }


def _used(random: Random, one: dict[str, Any]) -> dict[str, Any]:
    indices = random.sample(range(one["d_ff"]), 12)
    neurons = [{"index": index, "h": random.random(), "norm": random.random()} for index in indices]
    return {"active": random.randrange(1, one["d_ff"] // 8), "neurons": neurons}


def _walk(random: Random, one: dict[str, Any], *, soft: bool, normed: bool) -> dict[str, Any]:
    d_model, d_ff = one["d_model"], one["d_ff"]
    x, y = ([random.gauss(0, 1) for _ in range(d_model)] for _ in range(2))
    residual = [1 + 3 * number for number in x] if normed else x
    norms = sorted((random.paretovariate(1.2) for _ in range(31)), reverse=True)
    own = [neuron["index"] for neuron in one["neurons"]]
    own += [index for index in random.sample(range(d_ff), 62) if index not in own]
    return {
        "sentence": 0,
        "layer": one["name"],
        "position": 1,
        "token": " dog",
        "x": x,
        "z_active": 0.0,
        "neurons": [
            {"index": index, "z": norm / 2, "h": norm / 2, "norm": norm, "share": norm / sum(norms)}
            for index, norm in zip(own[:31], norms, strict=True)
        ],
        "active": d_ff if soft else 31,
        "y": y,
        "residual": residual,
        "out": [one + other for one, other in zip(residual, y, strict=True)],
        "x_norm": 5.6,
        "y_norm": 5.7,
    }
