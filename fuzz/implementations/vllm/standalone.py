"""What a standalone script needs to call one of vLLM's launchers: of its file, only that and what it uses."""

import ast
from pathlib import Path

from indexfuzz.core.case import Case
from indexfuzz.core.stage_names import GATHER, K_QUANT_CACHE
from indexfuzz.implementations.base import KernelSource
from indexfuzz.implementations.loading.source import Project
from indexfuzz.implementations.vllm.contract import OPS

CALLS = {
    K_QUANT_CACHE: (
        "indexer_k_quant_and_cache_triton",
        "{launcher}(k[:slot_mapping.shape[0]], cache, slot_mapping, quant_group, scale_fmt)",
    ),
    GATHER: (
        "cp_gather_indexer_k_quant_cache_triton",
        "{launcher}(cache, k_fp8, k_scale.view(torch.uint8).view(-1, 4), block_table, cu_seqlens, token_to_seq)",
    ),
}
"""Stage -> its launcher, and its call with the names of the stage's arguments."""


def standalone_source(project: Project, path: Path, stage: str, case: Case) -> KernelSource | None:
    """Lines that define a stage's function as `kernel` from vLLM's files at a path; None for other stages."""
    if stage not in CALLS:
        return None
    launcher, call = CALLS[stage]
    text = project.read(OPS)
    wanted = tuple(sorted(_needed(text, launcher)))
    is_fnuz = case.model.fp8 == "e4m3fnuz"
    dtype = "torch.float8_e4m3fnuz" if is_fnuz else "torch.float8_e4m3fn"
    reading = (
        f"zipfile.ZipFile(PATH).read({OPS!r}).decode()"
        if path.is_file()
        else f"pathlib.Path(PATH, {OPS.removeprefix('vllm/')!r}).read_text()"
    )
    where = str(path) if path.is_file() else str(_package(path))
    code = f"""import triton
import triton.language as tl

# vLLM is not imported: of its file, only the launcher and what it uses are executed, for a GPU with this FP8 format.
PATH = {where!r}
WANTED = {{{", ".join(map(repr, wanted))}}}
TEXT = {reading}
FILE = {OPS!r}
linecache.cache[FILE] = (len(TEXT), None, TEXT.splitlines(True), FILE)  # where triton reads it


def names(node):  # what a statement of the file defines
    return {{getattr(each, "name", getattr(each, "id", "")) for each in (node, *getattr(node, "targets", ()))}}


nodes = [node for node in ast.parse(TEXT).body if WANTED & names(node)]
platform = types.SimpleNamespace(fp8_dtype=lambda: {dtype}, is_fp8_fnuz=lambda: {is_fnuz}, is_rocm=lambda: True)
module = types.ModuleType("vllm_ops")
module.__dict__.update(torch=torch, triton=triton, tl=tl, current_platform=platform)
module.__dict__.update(_ON_GFX942={is_fnuz}, _ON_GFX950={not is_fnuz})
exec(compile(ast.Module(nodes, []), FILE, "exec"), module.__dict__)


def kernel({", ".join(_arguments(stage))}):
    module.{call.format(launcher=launcher)}
"""
    return KernelSource(code, f"vLLM's files at {path}")


def _arguments(stage: str) -> tuple[str, ...]:
    if stage == GATHER:
        return ("cache", "block_table", "cu_seqlens", "token_to_seq", "k_fp8", "k_scale", "quant_group", "layout")
    return ("k", "cache", "slot_mapping", "scale_fmt", "fp8", "quant_group", "layout")


def _package(path: Path) -> Path:
    """The folder of the package in an unpacked wheel or a checkout."""
    return path / "vllm" if (path / "vllm").is_dir() else path


def _needed(text: str, name: str) -> set[str]:
    """A function of a file, and the functions and constants of that file that it uses, directly or not."""
    nodes = dict[str, ast.stmt]()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            nodes[node.name] = node
        elif isinstance(node, ast.Assign):
            nodes |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
    needed, todo = set[str](), [name]
    while todo:
        current = todo.pop()
        if current in nodes and current not in needed:
            needed.add(current)
            todo += [node.id for node in ast.walk(nodes[current]) if isinstance(node, ast.Name)]
    return needed
