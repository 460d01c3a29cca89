"""How long a sequence a model was made for."""

from __future__ import annotations

from typing import Any

from safe_rlhf_panacea.errors import UserError


def check_positions(model: Any, length: int, name: str, what: str = "--max_length") -> None:
    """Refuse sequences that are longer than a model's positions reach.

    Models that do not say how many they have pass.

    Args:
        model: with its configuration.
        length: of the longest sequence, in tokens.
        name: of the model.
        what: makes a sequence so long.

    Raises:
        UserError: with both numbers.
    """
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions < length:
        raise UserError(
            f"{what} makes {length} tokens, and {name} has {positions} positions "
            "(max_position_embeddings)"
        )
