from hybrid.api.model import Model as Model
from hybrid.api.model import load as load
from hybrid.api.text_score import Score as Score
from hybrid.api.training import train as train
from hybrid.auditing.audit import audit_scorer as audit_scorer
from hybrid.scoring.options import EvalOptions as EvalOptions
from ngram.errors import SeedgramError as SeedgramError

__version__: str
__all__: list[str]
