"""Writes deepspeed.json: DeepSpeed's curriculum schedules. Needs deepspeed.

    python -m tests.data.curriculum.make_goldens
"""

import json
from pathlib import Path

CASES = ((8, 1024, 15000, 8, 1), (64, 1024, 1000, 64, 1), (64, 1024, 1000, 64, 2), (16, 512, 300, 16, 3), (104, 1000, 77, 8, 1))
STEPS = (0, 1, 2, 5, 10, 50, 76, 77, 78, 100, 299, 300, 500, 999, 1000, 5000, 14999, 15000, 20000)


def deepspeed() -> list[list[int]]:
    """The difficulty at STEPS of each of CASES: (minimum, maximum, steps, multiple, degree)."""
    from deepspeed.runtime.data_pipeline.curriculum_scheduler import CurriculumScheduler

    out = []
    for minimum, maximum, steps, multiple, degree in CASES:
        config = {
            "min_difficulty": minimum, "max_difficulty": maximum, "schedule_type": "fixed_root",
            "schedule_config": {"total_curriculum_step": steps, "difficulty_step": multiple, "root_degree": degree},
        }  # fmt: skip
        out.append([CurriculumScheduler(config).get_difficulty(step) for step in STEPS])
    return out


if __name__ == "__main__":
    Path(__file__).with_name("deepspeed.json").write_text(json.dumps(deepspeed(), separators=(",", ":")) + "\n")
