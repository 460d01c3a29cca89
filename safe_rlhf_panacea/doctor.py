"""What is installed, what is underneath and what is missing, to be pasted into a bug report.

It names no host, user, folder or token: of the environment it prints only what it knows the
values of, and of other packages' errors only their type. Nothing is imported at the top that may
be missing.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import safe_rlhf_panacea
from safe_rlhf_panacea.configs import Options, Program, option
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.printing import say

PROGRAM = "python -m safe_rlhf_panacea.doctor"
PATCHES = "python -m safe_rlhf_panacea.patches"
DISTRIBUTION = "safe-rlhf-panacea"
COMPILERS = ("cc", "c++", "nvcc", "ninja")
CHECKOUT = "pip install --editable '."
GIB = 2**30
Report = dict[str, Any]


class DoctorOptions(Options):
    """Print what is installed and what is missing, for a bug report.

    No host, user, folder or secret is named. Exit code 1: something is missing that is always
    needed.
    """

    json: bool = option(False, "as JSON")


COMMAND = Program(DoctorOptions, PROGRAM, example=f"{PROGRAM} --json")


def _or_reason(look: Callable[[], Any]) -> Any:
    """What ``look`` finds, or in a few words why it finds nothing; never a foreign message."""
    aside = io.StringIO()  # libraries warn and print while they are imported, with paths
    try:
        with (
            contextlib.redirect_stdout(aside),
            contextlib.redirect_stderr(aside),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            return look()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        return f"not known: {missing if missing.isidentifier() else 'a module'} is missing"
    except Exception as error:  # whatever a broken installation raises
        return f"not known: {type(error).__name__}"


def packages() -> Report:
    """Versions of what this package declares, and what of it is missing, by extra; "": always."""
    from packaging.requirements import Requirement

    versions: dict[str, str | None] = {}
    missing: dict[str, list[str]] = {}
    try:
        declared = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return {"declared": False, "versions": versions, "missing": missing}
    extras = declared.metadata.get_all("Provides-Extra") or []
    for requirement in map(Requirement, declared.requires or ()):
        marker = requirement.marker
        for extra in ("", *extras):
            if marker is not None and not marker.evaluate({"extra": extra}):
                continue
            lacks = missing.setdefault(extra, [])
            try:
                version = importlib.metadata.version(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                version = None
            versions[requirement.name] = version
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                lacks.append(f"{requirement.name}{requirement.specifier}")
            if not extra:
                break  # needed always, so of no extra
    return {"declared": True, "versions": versions, "missing": missing}


def installation() -> Report:
    """This package: version, how it was installed, and the commit of a checkout."""
    from safe_rlhf_panacea.runs.run_record import git_state

    try:
        origin = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        editable = json.loads(origin or "{}").get("dir_info", {}).get("editable", False)
        how = "editable" if editable else "installed"
    except importlib.metadata.PackageNotFoundError:
        how = "not installed"
    return {"version": safe_rlhf_panacea.__version__, "how": how, "git": _or_reason(git_state)}


def machine() -> Report:
    """Python, the family of the operating system, cores, memory, compilers."""
    cores = os.cpu_count() or 0
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    threads = os.environ.get("OMP_NUM_THREADS", "")
    try:
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1)
    except (ValueError, OSError):
        memory = None
    return {
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()).strip(),
        "cores": cores,
        "usable_cores": usable,
        "omp_num_threads": int(threads) if threads.isascii() and threads.isdigit() else None,
        "memory_gib": memory,
        "compilers": {name: shutil.which(name) is not None for name in COMPILERS},
    }


def driver() -> str | None:
    """The version of NVIDIA's driver; None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    version = run.stdout.strip().split("\n")[0]
    known = run.returncode == 0 and version.replace(".", "").isdigit()
    return version if known else "nvidia-smi fails"


def accelerators() -> Report:
    """The GPUs that torch sees, and what it was built for."""
    import torch

    found = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    devices = map(torch.cuda.get_device_properties, found)
    return {
        "built_for": torch.version.cuda or torch.version.hip or "CPU",
        "threads": torch.get_num_threads(),
        "gpus": [{"name": d.name, "memory_gib": round(d.total_memory / GIB, 1)} for d in devices],
    }


def base() -> str:
    """Which Safe-RLHF the trainers come from, without its folder."""
    from safe_rlhf_panacea.base.resolution import VARIABLE, backend

    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = backend()
    except UserError:
        return f"none: {VARIABLE} asks for what is not there, see {PATCHES}"
    what = "Safe-RLHF" if found.name == "safe_rlhf" else "the port of Safe-RLHF"
    broken = any(issubclass(warning.category, RuntimeWarning) for warning in told)
    note = f"; an installed Safe-RLHF does not import, see {PATCHES}" if broken else ""
    return f"{what} {found.version}{found.patches}{note}"


def wandb() -> str:
    """Whether wandb would be reached."""
    from safe_rlhf_panacea.runs.wandb_run import wanted_mode

    try:
        return wanted_mode()
    except UserError:
        return "WANDB_MODE is none of online, offline and disabled"


def hub() -> str:
    """Whether the hub would be reached, and with a token."""
    from huggingface_hub import constants

    # Not get_token(), which may ask a server for a new one.
    given = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    token = "a token" if given or os.path.isfile(constants.HF_TOKEN_PATH) else "no token"
    return f"{'offline' if constants.HF_HUB_OFFLINE else 'online (not tried)'}, {token}"


def report() -> Report:
    """Everything, as plain values."""
    return {
        "package": installation(),
        "machine": machine(),
        "torch": _or_reason(accelerators),
        "driver": _or_reason(driver),
        "base": _or_reason(base),
        "services": {"wandb": _or_reason(wandb), "hub": _or_reason(hub)},
        "packages": _or_reason(packages),
    }


def _lines(found: Report) -> Iterator[str]:
    """The report for people."""
    package, here, torch = found["package"], found["machine"], found["torch"]
    git = package["git"] if isinstance(package["git"], dict) else {}
    commit = f", commit {git['commit'][:12]}" if git else ""
    changed = ", modified" if git.get("modified") else ""
    yield f"safe-rlhf-panacea {package['version']}, {package['how']}{commit}{changed}"
    yield f"Python      {here['python']}, {here['system']}, {here['libc'] or 'libc not known'}"
    threads = f", OMP_NUM_THREADS={here['omp_num_threads']}" if here["omp_num_threads"] else ""
    if isinstance(torch, dict):
        threads += f", torch uses {torch['threads']} threads"
    yield f"Cores       {here['usable_cores']} usable of {here['cores']}{threads}"
    yield f"Memory      {here['memory_gib'] or 'not known'} GiB"
    yield f"Compilers   {', '.join(n for n, there in here['compilers'].items() if there) or 'none'}"
    if isinstance(torch, dict):
        gpus = [f"{gpu['name']}, {gpu['memory_gib']} GiB" for gpu in torch["gpus"]]
        yield f"GPUs        {len(gpus)}: {'; '.join(gpus)}" if gpus else "GPUs        none"
        yield f"torch for   {torch['built_for']}, NVIDIA driver {found['driver'] or 'none'}"
    else:
        yield f"GPUs        {torch}"
    yield f"Base        {found['base']}"
    yield f"wandb       {found['services']['wandb']}"
    yield f"Hub         {found['services']['hub']}"
    known = found["packages"]
    if not isinstance(known, dict):
        yield f"Packages    {known}"
        return
    if not known["declared"]:
        yield "Packages    not known: this package is not installed (pip install -e .)"
        return
    there = {name: version for name, version in known["versions"].items() if version}
    width = max(map(len, there), default=0)
    yield from ("", *(f"{name:{width}}  {version}" for name, version in there.items()), "")
    extras = {extra: lacks for extra, lacks in known["missing"].items() if extra}
    whole = [extra for extra, lacks in extras.items() if not lacks]
    yield f"extras that are whole: {', '.join(whole) or 'none'}"
    lacking = {extra: lacks for extra, lacks in extras.items() if lacks}
    if lacking:
        yield f"extras that are not, and what they lack (in a checkout: {CHECKOUT}[EXTRA]'):"
        yield from (f"  {extra}: {', '.join(lacks)}" for extra, lacks in lacking.items())
    lacks = known["missing"].get("", [])
    needed = f"missing: {', '.join(lacks)}; in a checkout: {CHECKOUT}'" if lacks else "all there"
    yield f"needed always: {needed}"


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; exit code 1 where something is missing that is always needed."""
    args = COMMAND.read(argv)
    found = report()
    say(json.dumps(found, indent=2) if args.json else "\n".join(_lines(found)))
    known = found["packages"]
    whole = isinstance(known, dict) and known["declared"] and not known["missing"].get("")
    return 0 if whole else 1


if __name__ == "__main__":
    raise SystemExit(main())
