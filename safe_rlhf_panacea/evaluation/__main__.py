"""``python -m safe_rlhf_panacea.evaluation``."""

from safe_rlhf_panacea.evaluation.main import main

if __name__ == "__main__":
    main()
