"""What a checkpoint folder holds, as a dictionary and as text."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from workbench.models.scgpt.checkpoint import load_checkpoint
from workbench.models.scgpt.vocabulary import SPECIALS


def describe(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint and say what it holds.

    Parameters
    ----------
    path
        Checkpoint folder.

    Returns
    -------
    dict
        ``config``, ``heads``, ``vocabulary``, ``hooks`` and ``report`` (a `LoadReport`), ready for JSON.
    """
    model = load_checkpoint(path)
    assert model.report is not None
    config, genes = model.config, model.vocabulary.genes
    return {
        "release": model.report.release,
        "config": asdict(config),
        "heads": {"layers": config.n_layers, "per_layer": config.n_heads, "total": config.n_layers * config.n_heads},
        "vocabulary": {
            "tokens": len(model.vocabulary),
            "genes": len(genes),
            "special": [s for s in SPECIALS if s in model.vocabulary],
            "first": list(genes[:5]),
        },
        "hooks": len(model.hook_dict),
        "report": model.report.to_dict(),
    }


def describe_text(description: dict[str, Any]) -> str:
    """Readable form of `describe`.

    Parameters
    ----------
    description
        As `describe` returns it.
    """
    config, heads, report = description["config"], description["heads"], description["report"]
    vocabulary = description["vocabulary"]
    peeled = ", ".join(f"{k} '{report[k]}'" for k in ("wrapper", "prefix") if report[k])
    lines = [
        f"{report['source']}: {description['release'] or 'not a known release'}",
        f"  heads       {heads['layers']} layers x {heads['per_layer']} heads = {heads['total']}, width {config['d_model']}, "
        f"feed-forward {config['d_mlp']}",
        f"  input       {config['value_style']} values, {config['n_bins']} bins, up to {config['max_tokens']} tokens; "
        f"cell embedding: {config['cell_style']}",
        f"  decoders    expression: {_yes(config['has_expression'])}, MVC: {config['mvc_style'] or 'no'}, "
        f"classes: {config['n_classes'] or 'no'}",
        f"  vocabulary  {vocabulary['genes']} genes and {', '.join(vocabulary['special'])}",
        f"  weights     {report['n_parameters']:,} numbers in {len(report['loaded'])} tensors, layout {report['layout']}"
        + (f", peeled {peeled}" if peeled else ""),
        f"  sha256      {report['sha256'].get('best_model.pt', '')}",
    ]
    for kind in ("missing", "mismatched", "unexpected", "ignored"):
        names = report[kind]
        shown = f" ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})" if names else ""
        lines.append(f"  {kind:<11} {len(names)}{shown}")
    return "\n".join(lines)


def _yes(there: bool) -> str:
    return "yes" if there else "no"
