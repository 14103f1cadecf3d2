"""The study of social bias: Zaman et al. 2023, section 5, Table 1 and Figure 5.

Two models are trained on data that are biased in one protected attribute each, and averaged; a full model on both data sets,
INLP and LEACE are what that is compared with. What every model answers is recorded once, and all metrics come from there.
"""

from fuseforget.studies.bias.settings import SCALES, BiasStudy, settings_for
from fuseforget.studies.bias.study import run_bias_study

__all__ = ["SCALES", "BiasStudy", "run_bias_study", "settings_for"]
