"""``python -m safe_rlhf_panacea.miniature``."""

from safe_rlhf_panacea.miniature.main import main

if __name__ == "__main__":
    main()
