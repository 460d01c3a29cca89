"""Passes over a model without work on padding: ``log_probs`` of tokens, and ``generate``.

The rest is what these two are given (groups, the tokens that count, how to draw) and may raise.
"""

from safe_rlhf_panacea.forward.generation import (
    NoResponsesError,
    NotFiniteError,
    SamplingConfig,
    generate,
    is_end,
    up_to_end,
)
from safe_rlhf_panacea.forward.passes import PassOptions, set_pass_options
from safe_rlhf_panacea.forward.probabilities import (
    answer_log_probs,
    answer_tokens,
    hidden_states,
    log_probs,
    of_each_token,
    response_tokens,
)
from safe_rlhf_panacea.forward.sharing import across, side_by_side

__all__ = [
    "NoResponsesError",
    "NotFiniteError",
    "PassOptions",
    "SamplingConfig",
    "across",
    "answer_log_probs",
    "answer_tokens",
    "generate",
    "hidden_states",
    "is_end",
    "log_probs",
    "of_each_token",
    "response_tokens",
    "set_pass_options",
    "side_by_side",
    "up_to_end",
]
