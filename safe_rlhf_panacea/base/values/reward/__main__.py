"""``python -m safe_rlhf_panacea.base.values.reward``."""

from safe_rlhf_panacea.base.values.reward.main import main

if __name__ == "__main__":
    main()
