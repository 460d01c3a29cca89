"""``python -m safe_rlhf_panacea.export``."""

from safe_rlhf_panacea.export.main import main

if __name__ == "__main__":
    main()
