"""What docs/scaling.md says, from the code's own formulas: `python benchmarks/scaling_table.py`."""

from __future__ import annotations

import ltm
from ltm.bottleneck import StreamingBottleneck
from ltm_platform.data.order import Order
from ltm_platform.training.measurement.estimates import (
    STAGES,
    checkpoint_bytes,
    model_states,
    sent_bytes,
)

NETWORKS = ("vit_s", "vit_b")
WORKERS = (8, 64, 512)
ROWS_A_STEP = 4
"""``train/loss``, ``train/ce``, ``train/ib_bound`` and ``train/lr``."""
IMAGES = 1_281_167
EPOCHS = 300
CLASSES = 1000
BATCH_A_GPU = 128


def main() -> None:
    for name in NETWORKS:
        model = ltm.create_model(name)
        parameters = round(ltm.count(model).params_m * 1e6)
        bottleneck = StreamingBottleneck(CLASSES, feature_dim=model.head_hidden_size)
        statistics = sum(t.nbytes for t in bottleneck.state_dict().values())
        print(f"\n{name}, {parameters / 1e6:.1f} M parameters, fp32 weights, moving average kept\n")
        print("| GPUs | " + " | ".join(f"ZeRO {stage}" for stage in STAGES) + " | checkpoint |")
        print("|---" * (2 + len(STAGES)) + "|")
        for workers in WORKERS:
            cells = []
            for stage in STAGES:
                sent = sent_bytes(parameters, stage, workers) / 1e6
                held = model_states(parameters, stage, workers, half=False, ema=True) / 1e6
                cells.append(f"{sent:,.0f} / {held:,.0f}")
            stored = checkpoint_bytes(parameters, workers, ema=True, statistics=statistics) / 1e6
            print(f"| {workers} | " + " | ".join(cells) + f" | {stored:,.0f} |")
    print(f"\n| GPUs | global batch | steps of {EPOCHS} epochs | MLflow rows |")
    print("|---|---|---|---|")
    for workers in WORKERS:
        batch = workers * BATCH_A_GPU
        steps = Order(IMAGES, batch, seed=0).steps(EPOCHS)
        print(f"| {workers} | {batch:,} | {steps:,} | {steps * ROWS_A_STEP:,} |")


if __name__ == "__main__":
    main()
