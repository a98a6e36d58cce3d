"""What a run is judged by: likeness to the reference, and time."""

from ditcache_rl.metrics.quality import PSNR_CAP_DB, Images, Lpips, load_lpips, psnr_db, ssim

__all__ = [
    "PSNR_CAP_DB",
    "Images",
    "Lpips",
    "load_lpips",
    "psnr_db",
    "ssim",
]
