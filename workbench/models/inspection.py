"""What a checkpoint folder holds, as a dictionary and as text."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from workbench.models.load import read_model
from workbench.models.vocabulary import SPECIALS


def describe(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint and say what it holds.

    Parameters
    ----------
    path
        Checkpoint folder, as `load_model` takes it.

    Returns
    -------
    dict
        ``architecture``, ``release``, ``config``, ``facts``, ``heads``, ``vocabulary``, ``hooks`` and ``report`` (a
        `LoadReport`), ready for JSON.
    """
    read = read_model(path)
    config, genes = read.config, read.vocabulary.genes
    return {
        "architecture": read.architecture,
        "release": read.report.release,
        "config": asdict(config),
        "facts": config.facts(),
        "heads": {"layers": config.n_layers, "per_layer": config.n_heads, "total": config.n_layers * config.n_heads},
        "vocabulary": {
            "tokens": len(read.vocabulary),
            "genes": len(genes),
            "special": [s for s in SPECIALS if s in read.vocabulary],
            "first": list(genes[:5]),
        },
        "hooks": read.n_hooks,
        "report": read.report.to_dict(),
    }


def describe_text(description: dict[str, Any]) -> str:
    """Readable form of `describe`.

    Parameters
    ----------
    description
        What `describe` returned for a folder.
    """
    config, heads, report = description["config"], description["heads"], description["report"]
    vocabulary = description["vocabulary"]
    peeled = ", ".join(f"{k} '{report[k]}'" for k in ("wrapper", "prefix") if report[k])
    lines = [
        f"{report['source']}: {description['release'] or description['architecture'] + ', not a known release'}",
        f"  heads       {heads['layers']} layers x {heads['per_layer']} heads = {heads['total']}, width {config['d_model']}, "
        f"feed-forward {config['d_mlp']}",
        *(f"  {name:<11} {said}" for name, said in description["facts"].items()),
        *(
            f"  {'args.json' if i == 0 else '':<11} {name}: {value} - {done}"
            for i, (name, value, done) in enumerate(report["input"])
        ),
        f"  vocabulary  {vocabulary['genes']} genes and {', '.join(vocabulary['special'])}",
        f"  weights     {report['n_parameters']:,} numbers in {len(report['loaded'])} tensors, layout {report['layout']}"
        + (f", peeled {peeled}" if peeled else ""),
        f"  sha256      {next(iter(report['sha256'].values()), '')}",
    ]
    for kind in ("missing", "mismatched", "unexpected", "ignored"):
        names = report[kind]
        shown = f" ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})" if names else ""
        lines.append(f"  {kind:<11} {len(names)}{shown}")
    return "\n".join(lines)
