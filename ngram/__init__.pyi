from ngram.counting.build_table import build_table as build_table
from ngram.counting.counter import NgramCache as NgramCache
from ngram.counting.run import merge as merge
from ngram.errors import SeedgramError as SeedgramError
from ngram.library.model import NgramModel as NgramModel
from ngram.library.scores import State as State
from ngram.online.cache import OnlineCache as OnlineCache
from ngram.table import NgramTable as NgramTable
from ngram.tokenizer import Tokenizer as Tokenizer
from ngram.vocabulary import TokenIds as TokenIds
from ngram.words import WordVocabulary as WordVocabulary

__all__: list[str]
