"""``python -m safe_rlhf_panacea``, the same as the console command ``panacea``."""

import sys

from safe_rlhf_panacea.command import main

if __name__ == "__main__":
    sys.exit(main())
