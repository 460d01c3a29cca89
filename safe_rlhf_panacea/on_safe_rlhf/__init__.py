"""Safe-RLHF's own trainers, with the hooks that Panacea needs.

What really differs between the port and Safe-RLHF is here: one thin subclass per trainer, the
data set with one label per objective, and the start of a program. Nothing here is imported where
the port is underneath.
"""

from safe_rlhf_panacea.patches import import_safe_rlhf

import_safe_rlhf()  # patched, before any module here asks for one of its names
