"""Fine-tuning on transformers' Trainer, which goes on where it was interrupted.

Importing the room imports neither torch nor transformers: they are loaded when something is trained.
"""

from fuseforget.train.from_base import train
from fuseforget.train.settings import PrivacySettings, PrivateResult, Timing, TrainResult, TrainSettings

__all__ = ["PrivacySettings", "PrivateResult", "Timing", "TrainResult", "TrainSettings", "train"]
