"""Which code a stage depends on: what its work reaches by imports, and of that only what is run."""

from __future__ import annotations

import ast
import shutil
from functools import partial

import pytest

from workbench.engine import code
from workbench.engine.code import PACKAGE, code_of, hash_of, reached, stripped

OPERATORS = [f"workbench.recipes.{name}.operators" for name in ("run", "gates", "benchmark")]


def names(modules):
    return {name.removeprefix("workbench.") for name in reached(modules)}


@pytest.mark.parametrize("module", OPERATORS)
def test_operators_depend_on_capture_and_model_and_on_nothing_that_judges(module):
    found = names([module])
    assert {
        "capture.record",
        "capture.pairs",
        "models.scgpt.hooked",
        "models.scgpt.tokenizer",
        "operators.store",
    } <= found
    own = module.removeprefix("workbench.")
    foreign = ("evidence", "figures", "explorer", "ablation", "factors", "geometry", "engine", "recipes", "planted")
    assert not [name for name in found if name.split(".")[0] in foreign and name != own]


def test_no_stage_but_the_explorer_depends_on_the_explorer():
    recipes = [path.relative_to(PACKAGE.parent).with_suffix("") for path in (PACKAGE / "recipes" / "run").glob("*.py")]
    modules = {".".join(path.parts) for path in recipes}
    stages = {
        name for name in modules if name.split(".")[-1] not in ("explorer", "recipe", "run", "several", "__init__")
    }
    with_explorer = {name for name in stages if any(one.startswith("explorer") for one in names([name]))}
    assert not {name for name in with_explorer if not name.endswith("sections")}
    assert any(one.startswith("explorer") for one in names(["workbench.recipes.run.explorer"]))


def test_no_recipe_depends_on_another_ones_stages():
    for recipe in ("run", "gates", "ablate", "benchmark"):
        for path in (PACKAGE / "recipes" / recipe).glob("*.py"):
            found = names([f"workbench.recipes.{recipe}.{path.stem}"])
            others = {
                name
                for name in found - {"recipes.shared", "recipes.loads", "recipes.parts"}
                if name.startswith("recipes.") and not name.startswith(f"recipes.{recipe}")
            }
            if recipe == "run" and path.stem in ("agreement", "recipe", "rulers", "several"):
                # A ruler over genes among several is measured by the stages of workbench manifold.
                others = {name for name in others if not name.startswith("recipes.manifold")}
            assert not others, f"{recipe}/{path.name} reaches {', '.join(sorted(others))}"


def test_what_carries_results_does_not_count():
    every = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    found = reached(every)
    assert len(found) > 100 and not [name for name in found if name.startswith("workbench.engine")]
    assert not {
        "workbench.settings",
        "workbench.errors",
        "workbench.recipes.run.config",
        "workbench.ablation.settings",
    } & {*found}


# A package of our own


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package by the name of ours: ``work`` imports ``low`` and, inside a function, ``late``; ``far`` is on its own."""
    folder = tmp_path / "workbench"
    texts = {
        "__init__.py": "",
        "work.py": '"""Work."""\nfrom workbench import low\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n'
        "    from workbench import typed\nelse:\n    from workbench.rooms import other\n\n\n"
        'def work(x):\n    """Do it."""\n    from workbench.late import more\n\n    return low.base(x) + more\n',
        "low.py": 'def base(x):\n    """Base.\n\n    More of it.\n    """\n    return x  # as it is\n',
        "late.py": "import workbench.deep\n\nmore = 1\n",
        "deep.py": "# alone\nDEEP = 1\n",
        "far.py": "from workbench import low\n",
        "typed.py": "TYPED = 1\n",
        "errors.py": "KIND = 1\n",
        "rooms/__init__.py": "ROOM = 1\n",
        "rooms/other.py": "from workbench.errors import KIND\nfrom workbench.work import work\n",
    }
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def hash_now(package, module="workbench.work"):
    # What was read once in a process is not read again, as it is not imported again.
    code._source.cache_clear()
    code._hash.cache_clear()
    return hash_of([module], package)


def test_modules_are_reached_by_imports_wherever_they_stand(package):
    found = reached(["workbench.work"], package)
    wanted = ("deep", "late", "low", "rooms", "rooms.other", "work")
    assert found == tuple(f"workbench.{name}" for name in wanted)
    assert reached(["workbench.far"], package) == ("workbench.far", "workbench.low")
    assert reached(["workbench.absent", "numpy"], package) == ()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("work.py", '"""Work."""\n', ""),
        ("work.py", '"""Do it."""', '"""Do it, described at more length.\n\n    In two paragraphs.\n    """'),
        ("low.py", "  # as it is", ""),
        ("low.py", "    More of it.\n", "    Quite another thing, with a # in it.\n"),
        ("deep.py", "# alone\n", "\n\n# no longer alone\n"),
        ("low.py", "    return x", "\n    # A comment of its own.\n\n    return x"),
        ("typed.py", "1", "2"),
        ("errors.py", "1", "2"),
        ("far.py", "low", "deep"),
    ],
)
def test_what_does_not_run_does_not_count(package, name, old, new):
    before = hash_now(package)
    text = (package / name).read_text(encoding="utf-8")
    assert old in text
    (package / name).write_text(text.replace(old, new), encoding="utf-8")
    assert hash_now(package) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("work.py", "+ more", "- more"),
        ("low.py", "return x", "return -x"),
        ("late.py", "more = 1", "more = 2"),
        ("deep.py", "DEEP = 1", "DEEP = 2"),
        ("rooms/__init__.py", "1", "2"),
        ("rooms/other.py", "KIND\n", "KIND as KIND\n"),
        ("low.py", "    return x", "    if x:\n        return x"),
    ],
)
def test_code_that_is_reached_counts(package, name, old, new):
    before = hash_now(package)
    text = (package / name).read_text(encoding="utf-8")
    assert old in text
    (package / name).write_text(text.replace(old, new), encoding="utf-8")
    assert hash_now(package) != before


def test_a_module_that_is_added_counts_when_it_is_imported(package):
    before = hash_now(package)
    (package / "added.py").write_text("ADDED = 1\n", encoding="utf-8")
    assert hash_now(package) == before
    (package / "deep.py").write_text("# alone\nDEEP = 1\nfrom workbench import added\n", encoding="utf-8")
    assert hash_now(package) != before


def test_a_moved_module_counts(package):
    before = hash_now(package)
    (package / "low.py").rename(package / "lower.py")
    text = (package / "work.py").read_text(encoding="utf-8").replace("low", "lower")
    (package / "work.py").write_text(text, encoding="utf-8")
    assert hash_now(package) != before


# The package itself


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """The package somewhere else, to be changed; with the hash of the code under the operators of a run."""
    folder = tmp_path_factory.mktemp("copy") / "workbench"
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def changed(copied, name, text):
    """Hashes of the code under the operators and under the explorer of a run, before and after a line more in a file."""
    path, both = copied / name, ("workbench.recipes.run.operators", "workbench.recipes.run.explorer")
    before, original = [hash_now(copied, one) for one in both], path.read_bytes()
    try:
        path.write_bytes(original + text.encode())
        return [old != new for old, new in zip(before, [hash_now(copied, one) for one in both], strict=True)]
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("capture/record.py", "\n# a comment\n", [False, False]),
        ("capture/pairs.py", "\nMORE = 1\n", [True, True]),
        ("models/scgpt/hooked.py", "\nMORE = 1\n", [True, True]),
        ("explorer/explorer.js", "\n// more\n", [False, False]),
        ("explorer/page.py", "\nMORE = 1\n", [False, True]),
        ("figures/manifold.py", "\nMORE = 1\n", [False, False]),
        ("evidence/ruler.py", "\nMORE = 1\n", [False, True]),
        ("engine/stages.py", "\nMORE = 1\n", [False, False]),
        ("settings.py", "\nMORE = 1\n", [False, False]),
        ("recipes/run/config.py", "\nMORE = 1\n", [False, False]),
        ("recipes/gates/gates.py", "\nMORE = 1\n", [False, False]),
        ("evidence/rulers/hematopoiesis.yaml", "\n# more\n", [False, False]),
    ],
)
def test_a_change_reaches_the_stages_that_use_it_and_no_other(copied, name, text, wanted):
    assert changed(copied, name, text) == wanted


def test_the_copy_has_the_hash_of_the_original(copied):
    assert hash_now(copied, OPERATORS[0]) == hash_now(PACKAGE, OPERATORS[0])


# Work as stages have it


def test_work_counts_by_the_module_that_defines_it():
    from workbench.recipes.run.operators import operators_stage

    wanted = hash_of(["workbench.recipes.run.operators"])
    assert code_of(operators_stage) == code_of(partial(operators_stage, None)) == wanted and len(wanted) == 32
    assert code_of(partial(partial(operators_stage, 1), 2)) == wanted


def test_a_bound_method_counts_by_the_module_of_its_class():
    from workbench.operators.adaptor import LETAdaptor

    assert (
        code_of(LETAdaptor().fit) == code_of(partial(LETAdaptor().fit, 1)) == hash_of(["workbench.operators.adaptor"])
    )


def test_work_from_elsewhere_has_a_hash_too():
    def work(folder, results):
        return {}

    assert code_of(work) == hash_of([]) == code_of(lambda folder, results: {})


# What is left of a source


@pytest.mark.parametrize(
    ("source", "left"),
    [
        ('"""Doc."""\nx = 1\n', "x = 1"),
        ("x = '# no comment'  # a comment\n", "x = '# no comment'"),
        ('def f():\n    """Doc.\n\n    # More.\n    """\n    return 1\n', "def f():\n    return 1"),
        ("class A:\n    '''Doc.'''\n\n    x = 1\n", "class A:\n    x = 1"),
        ("async def f():\n    'Doc.'\n    return 1\n", "async def f():\n    return 1"),
        ("x = 1\n\n\n\ny = 2   \n", "x = 1\ny = 2"),
        ('def f(x="""no\n# doc"""):\n    return x\n', 'def f(x="""no\n# doc"""):\n    return x'),
        ("# only a comment\n", ""),
        ('x = f"{1:#x} # {2}"  # comment\n', 'x = f"{1:#x} # {2}"'),
        ("x = 'it\\'s # no comment'  # it's one\n", "x = 'it\\'s # no comment'"),
        ("# it's a comment\nx = 1  # \"\"\"\ny = '#'\n", "x = 1\ny = '#'"),
        ('x = """a "quoted" # word"""  # comment\n', 'x = """a "quoted" # word"""'),
        (
            'match x:\n    case 1:\n        def f():\n            ""\n            return 1\n',
            "match x:\n    case 1:\n        def f():\n            return 1",
        ),
        ("f = lambda: '# no comment'\n", "f = lambda: '# no comment'"),
        ("", ""),
    ],
)
def test_comments_docstrings_and_blank_lines_are_taken_out(source, left):
    assert stripped(source) == left


def test_every_module_of_the_package_can_be_stripped_and_still_means_the_same():
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        left = stripped(source)
        assert "# " not in left or any(mark in left for mark in ('"', "'")), path
        # Where a function was nothing but its docstring, nothing is left of its body.
        try:
            again = ast.dump(ast.parse(left))
        except SyntaxError:
            continue
        assert again == ast.dump(without_docstrings(source)), path


def without_docstrings(source):
    tree = ast.parse(source)
    for node in ast.walk(tree):
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, kinds) and ast.get_docstring(node):
            del node.body[0]
    return tree
