"""``python -m safe_rlhf_panacea.small``."""

from safe_rlhf_panacea.small.main import main

if __name__ == "__main__":
    main()
