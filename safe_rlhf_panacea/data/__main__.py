"""``python -m safe_rlhf_panacea.data``."""

from safe_rlhf_panacea.data.listing import main

if __name__ == "__main__":
    main()
