"""The table of commands: their help, arguments and examples, and what they carry out."""

from __future__ import annotations

from argparse import BooleanOptionalAction
from pathlib import Path

from workbench import commands
from workbench.arguments import BACKEND, CELLS, CONFIG, FLOATS, FOLDER, SHELLS, Argument, Command, Table, Work, argument


def _path(written: str) -> Path:
    """A path; shells leave the ~ of --out=~/runs as it is."""
    return Path(written).expanduser()


def _takes_config(
    out_help: str, json_help: str = "print one JSON object; progress stays on stderr"
) -> tuple[Argument, ...]:
    return (
        argument("config", completes=CONFIG, help="YAML configuration"),
        argument("--out", completes=FOLDER, type=_path, help=out_help),
        argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="override one key; may be given more than once",
        ),
        argument("--device", help="auto, cpu, cuda:1, mps, or several with commas, in place of the configuration's"),
        argument("--dtype", choices=FLOATS, help="float type of the model, in place of the configuration's"),
        argument("--dry-run", action="store_true", help="print what would be done and how long it takes, and stop"),
        argument("--trust", action="store_true", help="believe finished files by their size, without reading them"),
        argument("--json", action="store_true", help=json_help),
    )


_RUN_FOLDER = "folder of the run (artifacts/NAME when absent)"
_JSON = argument("--json", action="store_true", help="print one JSON object; progress stays on stderr")
_LAYER = argument("--layer", default="X", help="where the values are: X, raw, or the name of a layer")
_GENE_COLUMN = argument("--gene-column", help="column of var with gene symbols (the index when absent)")
_BACKEND = (
    argument(
        "--backend", completes=BACKEND, default="sequential", help="sequential, loky (processes), threading or dask"
    ),
    argument("--jobs", type=int, default=1, help="workers of the backend (-1: one per core)"),
    argument("--address", help="scheduler of a Dask cluster, for --backend dask"),
)
_RUN = ("workbench.recipes.run.config:RunConfig", "workbench.recipes.run.recipe:RECIPE")

_WORKING = (
    Command(
        "pretrain",
        "train a scGPT-format checkpoint on cells",
        "Train a scGPT-format checkpoint; go on where an interrupted training stopped.",
        commands.pretrain,
        _takes_config("checkpoint folder (the configuration's own when absent)"),
        ("workbench pretrain experiments/pretrain_blood_mini.yaml --set settings.steps=100 --out /tmp/mini",),
        Work("workbench.recipes.pretrain.config:PretrainConfig", "workbench.recipes.pretrain.recipe:RECIPE"),
    ),
    Command(
        "run",
        "go from cells to operators, adaptor, readout, algorithm and report",
        "Go from cells to a report; finished stages whose inputs are unchanged are not run again.",
        commands.run,
        (*_takes_config(_RUN_FOLDER), *_BACKEND),
        (
            "workbench run experiments/demo.yaml --out artifacts/demo --set adaptor.k=6",
            "workbench run experiments/hematopoiesis.yaml --backend loky --jobs 2 --json",
        ),
        Work(*_RUN, ("extract", "factors")),
    ),
    Command(
        "extract",
        "the first part of a run: heads, controls, readouts, and the small algorithm",
        "Extract the small algorithm, with the evidence for and against it.",
        commands.run,
        (*_takes_config(_RUN_FOLDER), *_BACKEND),
        ("workbench extract experiments/hematopoiesis.yaml --out artifacts/hematopoiesis",),
        Work(*_RUN, ("extract",)),
    ),
    Command(
        "factors",
        "the second part of a run: compaction, factors and gene programs",
        "Take the operator apart: smaller feature maps, factors, what breaks without them, gene programs. Goes on in "
        "the folder of an extraction.",
        commands.run,
        (*_takes_config(_RUN_FOLDER), *_BACKEND),
        ("workbench factors experiments/hematopoiesis.yaml --out artifacts/hematopoiesis --jobs 2 --backend loky",),
        Work(*_RUN, ("factors",), ("compaction", "factors")),
    ),
    Command(
        "ablate",
        "sweep ablations over heads, with nulls, and report which heads matter for what",
        "Sweep ablations over heads; finished tasks are not done again.",
        commands.carry_out,
        (*_takes_config("folder of the sweep (artifacts/NAME when absent)"), *_BACKEND),
        ("workbench ablate experiments/ablation_blood_mini.yaml --out artifacts/ablation --backend loky --jobs 2",),
        Work("workbench.recipes.ablate.config:AblationConfig", "workbench.recipes.ablate.recipe:RECIPE"),
    ),
    Command(
        "gates",
        "put cohorts of cells through the seven gates, screen all heads, and report",
        "Put cohorts of cells through the seven gates; finished work is not done again. Exits with 1 where a required "
        "gate does not pass.",
        commands.gates,
        (*_takes_config(_RUN_FOLDER, "print the table of gates as JSON"), *_BACKEND),
        ("workbench gates experiments/gates_blood_mini.yaml --out artifacts/gates",),
        Work("workbench.recipes.gates.config:GatesConfig", "workbench.recipes.gates.recipe:RECIPE"),
    ),
    Command(
        "geometry",
        "measure how many dimensions, how isotropic and how faithful each layer is, beside its baselines",
        "Measure the shape of what each layer encodes: dimension, isotropy, neighbourhoods of expression, whose variance; beside "
        "expression, PCA, your own embeddings and random weights. Finished spaces are not measured again.",
        commands.carry_out,
        (*_takes_config(_RUN_FOLDER), *_BACKEND),
        (
            "workbench geometry experiments/geometry_blood_mini.yaml --out artifacts/geometry",
            "workbench geometry experiments/geometry_blood_mini.yaml --set data.name=my_cells.h5ad --set 'data.embeddings=[X_scVI]'",
        ),
        Work("workbench.recipes.geometry.config:GeometryConfig", "workbench.recipes.geometry.recipe:RECIPE"),
    ),
    Command(
        "conventions",
        "say what the conventions by which operators are made change on a model",
        "Score every head under scGPT's own input and the paper's, mean and sum over cells, both orientations and two panels, beside "
        "co-detection counts and random matrices: one table of what differs.",
        commands.carry_out,
        _takes_config(_RUN_FOLDER),
        ("workbench conventions experiments/conventions_blood_mini.yaml --out artifacts/conventions",),
        Work("workbench.recipes.conventions.config:ConventionsConfig", "workbench.recipes.conventions.recipe:RECIPE"),
    ),
    Command(
        "manifold",
        "say how a model's genes, and groups of cells, follow a graph of genes",
        "Measure how genes follow a ruler over genes, such as that of intercellular communication, in operators, gene table and residual "
        "streams: on held-out families, by LET, geodesic MDS and Isomap, beside matched genes, rewired graphs and controls; and how groups of "
        "cells follow who can signal to whom.",
        commands.carry_out,
        _takes_config(_RUN_FOLDER),
        (
            "workbench manifold experiments/second_manifold_blood_mini.yaml --out artifacts/second_manifold",
            "workbench manifold experiments/second_manifold_blood_mini.yaml --set ruler=my_edges.csv",
        ),
        Work("workbench.recipes.manifold.config:ManifoldConfig", "workbench.recipes.manifold.recipe:RECIPE"),
    ),
    Command(
        "dictionary",
        "train sparse dictionaries of activations, judge them beside a gene's name alone, name their features, ask what they cause, and browse them",
        "Train a sparse dictionary of each hook, judge it beside gene identity, simpler codes and controls, name its features beside "
        "random directions of the cells, ask what they cause beside features that are alike, and write pages to browse. Options come last. Finished stages whose inputs are unchanged are not run again.",
        commands.carry_out,
        (
            argument(
                "only",
                nargs="?",
                choices=("train", "judge", "name", "sweep", "page"),
                help="do this part, and what comes before it; all when absent",
            ),
            *_takes_config(_RUN_FOLDER),
            *_BACKEND,
        ),
        (
            "workbench dictionary experiments/dictionary_blood_mini.yaml --out artifacts/dictionary",
            "workbench dictionary judge experiments/dictionary_blood_mini.yaml --out artifacts/dictionary --set dictionary.k=8",
        ),
        Work("workbench.recipes.dictionary.config:DictionaryRunConfig", "workbench.recipes.dictionary.recipe:RECIPE"),
    ),
    Command(
        "benchmark",
        "the extracted algorithm against what else one could use, on repeated splits",
        "Methods x splits x endpoints: the extracted heads, controls, baselines, frozen scGPT and other packages, on "
        "donors that nothing was fitted on. Finished tasks are not done again.",
        commands.benchmark,
        (*_takes_config(_RUN_FOLDER, "print files and the wins, ties and losses as JSON"), *_BACKEND),
        (
            "workbench benchmark experiments/benchmark_pbmc68k.yaml --out artifacts/benchmark",
            "workbench benchmark experiments/benchmark_kang.yaml --set data.name=kang2018_8donors.h5ad --backend loky "
            "--jobs 2",
        ),
        Work("workbench.recipes.benchmark.config:BenchmarkConfig", "workbench.recipes.benchmark.recipe:RECIPE"),
    ),
)

_TABLE = (
    Command(
        "doctor",
        "say what works on this machine and what each optional feature lacks",
        "Say what works on this machine: versions, devices, memory, disk, checkpoints, and what each optional feature "
        "needs. Exits with 1 where something that is required is broken, or a checkpoint cannot be read.",
        commands.doctor,
        (
            argument(
                "--checkpoint",
                completes=FOLDER,
                metavar="PATH",
                help="a checkpoint folder to try, beside the one that ships",
            ),
            _JSON,
        ),
        ("workbench doctor", "workbench doctor --checkpoint artifacts/scgpt-blood-mini --json"),
    ),
    Command(
        "inspect",
        "say what a checkpoint folder holds and whether it can be read",
        "Say what a checkpoint folder holds: configuration, heads, vocabulary, and what was and was not read.",
        commands.inspect,
        (argument("path", completes=FOLDER, help="folder with args.json, vocab.json and best_model.pt"), _JSON),
        ("workbench inspect artifacts/scgpt-blood-mini",),
    ),
    Command(
        "known-answers",
        "compare a checkpoint with what others measured on the released one",
        "Compare a checkpoint with figures that others measured on scGPT's released whole-human checkpoint: files, vocabulary, gene table "
        "and, with cells, attention of gene pairs. Exits with 1 where it is the release and an answer is missed; of any other checkpoint "
        "the answers are shown and none is asserted.",
        commands.known_answers,
        (
            argument("checkpoint", completes=FOLDER, help="folder with args.json, vocab.json and best_model.pt"),
            argument("--cells", completes=CELLS, help="file of cells of the immune system; none is read without it"),
            argument("--cell-type", help="column of obs with the cell types, where it has another name"),
            _LAYER,
            _GENE_COLUMN,
            argument("--annotation", help="table (CSV, TSV) with gene symbols and chromosomes"),
            argument(
                "--dictionaries", completes=FOLDER, help="folder of a run of workbench dictionary on this checkpoint"
            ),
            argument("--device", default="auto", help="auto, cpu, cuda:1 or mps, for the passes over cells"),
            argument("--seed", type=int, default=0, help="seed of the draw of cells and of the folds"),
            _JSON,
        ),
        (
            "workbench known-answers path/to/scGPT_human",
            "workbench known-answers path/to/scGPT_human --cells my_atlas.h5ad --layer raw --gene-column feature_name",
        ),
    ),
    Command(
        "config",
        "print the configuration of a command: every key, its default and its meaning",
        "Print a configuration with every key, its default and its meaning, to start one of your own from; or its JSON "
        "schema, by which editors complete and check keys.",
        commands.config,
        (
            argument("of", metavar="COMMAND", choices=[one.name for one in _WORKING], help="a command that takes one"),
            argument("--schema", action="store_true", help="print the JSON schema instead"),
        ),
        ("workbench config run > mine.yaml", "workbench config run --schema > run.schema.json"),
    ),
    *_WORKING,
    Command(
        "figures",
        "draw the figures of a run again from its tables, or list them",
        "Draw figures again, from the tables of a run alone: no model, no cells. A figure whose table is missing is "
        "named, never drawn empty.",
        commands.figures,
        (
            argument(
                "folder", completes=FOLDER, type=_path, help="folder of a run, an ablation, a gate run or a benchmark"
            ),
            argument(
                "--list", action="store_true", help="name every figure, its table and its counterpart in the paper"
            ),
            argument(
                "--only", action="append", default=[], metavar="NAME", help="this figure; may be given more than once"
            ),
            argument(
                "--format", default="html", help="html, svg, png, pdf, or several with commas; images need kaleido"
            ),
            argument("--dark", action="store_true", help="images for a dark page"),
            _JSON,
        ),
        (
            "workbench figures artifacts/demo --list",
            "workbench figures artifacts/demo --only heads --only holdouts --format html,svg",
        ),
    ),
    Command(
        "clean",
        "say what of a finished run may go, and remove what killed processes left half-written",
        "Remove halves of files whose writers on this machine are no more, and say what of a finished run may go and what is "
        "lost with it. Results stay, and so does what a run has put aside as NAME.changed, which is listed. A folder that "
        "another process works in is refused.",
        commands.clean,
        (
            argument("folder", completes=FOLDER, type=_path, help="folder of a run, or any folder"),
            argument("--stages", action="store_true", help="remove what finished stages keep; report and results stay"),
            _JSON,
        ),
        ("workbench clean artifacts/demo", "workbench clean artifacts/demo --stages"),
    ),
    Command(
        "apply",
        "apply an exported algorithm to an h5ad of any size",
        "Apply an algorithm that a run has left behind: latent, labels with probabilities and pseudotime go to a new "
        "h5ad without the matrix. Neither torch nor the checkpoint is needed.",
        commands.apply,
        (
            argument("algorithm", completes=FOLDER, help="folder of the algorithm, such as artifacts/demo/algorithm"),
            argument("cells", completes=CELLS, help="h5ad with gene symbols; counts or log-normalised values"),
            argument(
                "--out",
                completes=CELLS,
                type=_path,
                help="new file (CELLS.workbench.h5ad when absent); never overwritten",
            ),
            _LAYER,
            argument(
                "--values", help="what the values are, where they do not show it: counts, cp10k, cpm, log1p:TOTAL, ..."
            ),
            argument(
                "--depth", help="column of obs with each cell's counts over all genes, where the file holds only some"
            ),
            _GENE_COLUMN,
            argument(
                "--min-coverage",
                type=float,
                help="smallest share of the genes that must be measured (by default the least with which held-out training cells were still read)",
            ),
            argument(
                "--align",
                action=BooleanOptionalAction,
                help="bring the cells over those of training, or leave them where they lie; by default what logistic regression on expression speaks for",
            ),
            argument(
                "--strict",
                action="store_true",
                help="exit with 3 where the algorithm is not fit for these cells, which are written all the same",
            ),
            _JSON,
        ),
        ("workbench apply artifacts/demo/algorithm my_cells.h5ad --out my_cells.labels.h5ad",),
    ),
    Command(
        "completion",
        "print the script by which a shell completes commands, options and files",
        "Print a completion script. In bash, put it where the first example says (make the folder first) and open a "
        "new shell; in zsh, into a file _workbench in a folder of $fpath.",
        commands.completion,
        (argument("shell", choices=SHELLS, help=", ".join(SHELLS)),),
        (
            "workbench completion bash > ~/.local/share/bash-completion/completions/workbench",
            "workbench completion zsh > ~/.zfunc/_workbench",
            "workbench completion fish > ~/.config/fish/completions/workbench.fish",
        ),
    ),
)

COMMANDS: Table = {command.name: command for command in _TABLE}
