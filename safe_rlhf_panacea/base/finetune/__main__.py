"""``python -m safe_rlhf_panacea.base.finetune``."""

from safe_rlhf_panacea.base.finetune.main import main

if __name__ == "__main__":
    main()
