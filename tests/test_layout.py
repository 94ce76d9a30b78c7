"""The package's borders: imports run down only (CONTRIBUTING, "Where things are"), and start-up imports little."""

import ast
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import nnunet_xattnres
from nnunet_xattnres import autoregister

PACKAGE = Path(nnunet_xattnres.__file__).parent
# Each may import those below it. "commands/profile" and the like are a command each, and import no other one.
MAY_IMPORT = {
    "__main__": {"cli"},
    "cli": {"cli", "commands", "training", "networks", "reads", "ops", "nnunet", "pages", "common", "autoregister"},
    "commands": {"training", "networks", "reads", "ops", "nnunet", "pages", "common", "autoregister"},
    "training": {"training", "networks", "reads", "ops", "nnunet", "common"},
    "networks": {"networks", "reads", "ops", "common"},
    "reads": {"reads", "ops", "common"},
    "ops": {"ops", "common"},
    "nnunet": {"nnunet", "common"},
    "pages": {"pages", "common"},
    "common": {"common"},
    "autoregister": set(),
}
# The libraries that only some may import, beside those that everything may.
LIBRARIES = {
    "nnunetv2": {"commands", "training", "nnunet"},
    "acvl_utils": {"commands"},
    "dynamic_network_architectures": {"networks"},
    "timm": {"networks"},
    "monai": {"commands"},
}
ONLY_TORCH = {"reads", "ops", "common"}  # torch (triton with it) and the standard library
# Where the names of before the move still are; nothing in the package imports them.
OLD_NAMES = {"unet", "history", "warm_start", "nnunet_trainer"}


def modules():
    """Every module by its name below the package, and what it imports, inside functions too."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] == "trainers":  # in an installed wheel
            continue
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        found[".".join(parts)] = file
    return found


MODULES = modules()


def imports_of(file):
    """The names of modules that a file imports; of ours those below the package."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            # ``from package import module`` names a module, ``from module import name`` does not
            names = [_module_of(node.module, alias.name) for alias in node.names]
        else:
            continue
        yield from names


def _module_of(module, name):
    below = f"{module}.{name}".removeprefix("nnunet_xattnres.")
    return f"nnunet_xattnres.{below}" if module.startswith("nnunet_xattnres") and below in MODULES else module


def arrows():
    """(importing module, imported module), both below the package."""
    for name, file in MODULES.items():
        for imported in imports_of(file):
            if imported.startswith("nnunet_xattnres."):
                yield name, imported.removeprefix("nnunet_xattnres.")


def layer(module):
    return module.partition(".")[0]


def test_every_folder_has_its_place():
    assert {layer(name) for name in MODULES} - {""} - OLD_NAMES == set(MAY_IMPORT)


def test_imports_run_down():
    wrong = []
    for a, b in arrows():
        allowed = MAY_IMPORT.get(layer(a), set(MAY_IMPORT)) | {layer(a)}
        if a and layer(b) not in allowed:
            wrong.append(f"{a} imports {b}")
    assert not wrong, "\n".join(wrong)


def test_no_command_imports_another():
    def command(module):
        return module.split(".")[1]

    commands = [(a, b) for a, b in arrows() if a.startswith("commands.") and b.startswith("commands.")]
    assert commands, "the test looks in the wrong place"
    wrong = [f"{a} imports {b}" for a, b in commands if command(a) != command(b)]
    assert not wrong, "\n".join(wrong)


def test_nothing_in_networks_knows_another_network():
    shared = {"networks.configs", "networks.registry", "networks.upstream"}
    wrong = [f"{a} imports {b}" for a, b in arrows() if layer(a) == layer(b) == "networks" and b not in {a, *shared}]
    assert not wrong, "\n".join(wrong)


def test_there_is_no_circle():
    graph = {name: set() for name in MODULES}
    for a, b in arrows():
        if a != b:
            graph[a].add(b)
    done, path = set(), []

    def visit(name):
        if name in path:
            circle = [*path[path.index(name) :], name]
            pytest.fail(" -> ".join(circle))
        if name not in done:
            path.append(name)
            for below in sorted(graph.get(name, ())):
                visit(below)
            path.pop()
            done.add(name)

    for name in graph:
        visit(name)


def test_libraries_stay_within_their_borders():
    wrong = []
    for name, file in MODULES.items():
        for library in {imported.partition(".")[0] for imported in imports_of(file)} - {"nnunet_xattnres"}:
            foreign = library not in sys.stdlib_module_names and library not in {"torch", "triton"}
            if layer(name) not in LIBRARIES.get(library, {layer(name)}):
                wrong.append(f"{name} imports {library}")
            if layer(name) in ONLY_TORCH and foreign:
                wrong.append(f"{name} imports {library}")
    assert not [text for text in wrong if layer(text) not in OLD_NAMES], "\n".join(wrong)


HEAVY = ("torch", "timm", "nnunetv2", "numpy")
SHOW = f"import sys; print(*[m for m in {HEAVY} if m in sys.modules])"


def loaded_by(code, *heavy, **environment):
    """Which of the heavy libraries a new interpreter has loaded after ``code``."""
    clean = {k: v for k, v in os.environ.items() if not k.lower().startswith("nnunet")} | environment
    done = subprocess.run([sys.executable, "-c", f"{code}\n{SHOW}"], env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1].split()


def run_command(*arguments):
    run = f"app({list(arguments)!r})"
    return f"from nnunet_xattnres.cli import app\ntry: {run}\nexcept SystemExit as end: assert not end.code"


def test_the_package_and_the_commands_help_load_no_library():
    assert loaded_by("import nnunet_xattnres") == []
    assert loaded_by("import nnunet_xattnres.networks.registry, nnunet_xattnres.networks.configs") == []
    from nnunet_xattnres.cli import _COMMANDS

    for command in _COMMANDS:
        assert loaded_by(run_command(command, "--help")) == [], command


def test_plans_are_written_without_torch(tmp_path):
    """As far as nnU-Net itself does without; finding a data set by its number imports numpy."""
    from golden.stored import STOCK_PLANS, write_json

    folder = tmp_path / "Dataset001_Golden"
    folder.mkdir()
    write_json(STOCK_PLANS, folder / "nnUNetPlans.json")
    paths = dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), str(tmp_path))
    for command in ("plan", "repeat"):
        assert not {"torch", "timm"} & set(loaded_by(run_command(command, "-d", "1"), **paths))
    assert (folder / "nnUNetXAttnResPlans.json").is_file() and (folder / "nnUNetPlans_rep3.json").is_file()


def test_what_nnunets_search_imports_of_ours_loads_no_timm_and_no_network():
    """The folder trainers/; nnU-Net imports all of it for every trainer that is not its own."""
    files = sorted(map(str, Path(autoregister.trainers_dir()).glob("*.py")))
    code = f"import runpy, sys\nfor file in {files!r}: runpy.run_path(file)\n"
    code += "assert 'nnunet_xattnres.training.epochs' in sys.modules\n"
    code += "names = {'registry', 'configs'}\n"
    code += "networks = [m for m in sys.modules if m.startswith('nnunet_xattnres.networks.')]\n"
    code += "assert not [m for m in networks if m.rpartition('.')[2] not in names], networks"
    assert "timm" not in loaded_by(code)


def test_the_layers_are_in_the_order_in_which_contributing_names_them():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for upper, lower in pairwise(("cli", "commands", "training", "networks", "reads", "ops")):
        assert text.index(f"`nnunet_xattnres/{upper}/`") < text.index(f"`nnunet_xattnres/{lower}/`")
        assert lower in MAY_IMPORT[upper] and upper not in MAY_IMPORT[lower]


def test_autocast_is_switched_off_in_one_way():
    """Not every device has it, and torch.autocast ends with an error for those."""
    wrong = [
        name
        for name, file in MODULES.items()
        if name != "common.autocast" and re.search(r"torch\.autocast\((?!\"cuda\")", file.read_text(encoding="utf-8"))
    ]
    assert wrong == ["reads.shapes"]  # on the meta device too, for the dtypes that autocast gives on CUDA
