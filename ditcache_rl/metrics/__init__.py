"""What a run is judged by: likeness to the reference, and time."""

from ditcache_rl.metrics.quality import (
    PSNR_CAP_DB,
    Images,
    Lpips,
    Metric,
    load_lpips,
    metrics_at_hand,
    psnr_db,
    ssim,
    unrounded_psnr_db,
)

__all__ = [
    "PSNR_CAP_DB",
    "Images",
    "Lpips",
    "Metric",
    "load_lpips",
    "metrics_at_hand",
    "psnr_db",
    "ssim",
    "unrounded_psnr_db",
]
