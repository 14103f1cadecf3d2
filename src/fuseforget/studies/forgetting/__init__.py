"""The study of forgetting: fusion methods on the models of finished studies, each at parameters chosen on validation data.

Retention of what one model alone knows, of what all know, and the task, for every method of the table that needs no data,
beside the plain average and the average merely scaled. Each finished step is a record, so that a killed study goes on where it
was, and a finished one can be asked for more parts, sources and methods.
"""

from fuseforget.studies.forgetting.settings import ForgettingStudy
from fuseforget.studies.forgetting.study import PARTS, run_forgetting_study

__all__ = ["PARTS", "ForgettingStudy", "run_forgetting_study"]
