"""Every row of the tables in docs/data.md has its test: the names below are those that show it."""

import ast
import re

import pytest

from tests.support.paths import ROOT

DOCUMENTS, PREPARE, MANIFEST = "tests/ngram/test_documents.py", "tests/hybrid/data/test_prepare.py", "tests/hybrid/data/test_manifest.py"
SPLITTING, TOKENIZER, INPUTS = "tests/hybrid/data/test_splitting.py", "tests/hybrid/data/test_tokenizer.py", "tests/cases/test_inputs.py"
FOREIGN, CLI = "tests/hybrid/data/test_foreign_tokenizers.py", "tests/hybrid/cli/test_prepare_cli.py"
SHARDS = "tests/hybrid/data/test_shards.py"
SHOWN_BY = {
    "`.txt`": [(DOCUMENTS, "a_text_file_keeps_its_line_ends_and_loses_only_its_byte_order_mark"), (DOCUMENTS, "a_bad_file_is_named_with_the_place")],
    "`.jsonl`, `.ndjson`": [(DOCUMENTS, "every_kind_gives_the_same_documents"), (DOCUMENTS, "a_bad_file_is_named_with_the_place")],
    "`.json`": [(DOCUMENTS, "every_kind_gives_the_same_documents"), (DOCUMENTS, "json_keeps_lone_surrogates")],
    "`.csv`, `.tsv`": [(DOCUMENTS, "tables_and_json_keep_every_character"), (DOCUMENTS, "a_bad_file_is_named_with_the_place")],
    "`.parquet`": [(DOCUMENTS, "every_kind_gives_the_same_documents"), (DOCUMENTS, "a_column_that_is_not_text_is_named")],
    "`.gz`, `.bz2`, `.xz`, `.zst` behind any of these but Parquet": [
        (DOCUMENTS, "packed_files_give_the_same_documents"),
        (DOCUMENTS, "zstd_with_a_long_window_is_read"),
        (DOCUMENTS, "no_cut_of_two_frames_is_taken_for_a_whole_file"),
    ],
    "files of other names (`.log`, `.py`, `.md`, none at all), with `--any-name`": [
        (CLI, "a_folder_of_logs_is_read_when_any_name_will_do"),
        (DOCUMENTS, "files_of_other_names_are_read_where_that_is_asked_for"),
    ],
    "folders": [(DOCUMENTS, "an_unreadable_folder_is_an_error"), (DOCUMENTS, "a_folder_without_text_says_what_is_read")],
    "hidden files and folders in a folder (`._a.txt`, `.ipynb_checkpoints`), links to folders, other kinds": [
        (DOCUMENTS, "folders_are_searched_all_the_way_by_name_and_what_is_not_read_is_listed"),
        (INPUTS, "what_a_mac_or_a_notebook_leaves_in_a_folder_is_no_document_and_what_is_not_read_is_said"),
    ],
    "`-`, pipes, `<(…)`": [(CLI, "standard_input_and_pipes_are_read")],
    "null rows, empty documents": [(DOCUMENTS, "rows_without_a_text_are_left_out_and_counted"), (SPLITTING, "blank_text_is_refused")],
    "a document that is there again, in whatever file and packing": [
        (SPLITTING, "equal_documents_are_counted_once_unless_kept"),
        (INPUTS, "a_book_beside_its_packed_copy_is_counted_once"),
    ],
    "no `--val`": [(SPLITTING, "every_split_leaves_text_on_both_sides_or_says_that_it_cannot")],
    "too little text for two sides": [(SPLITTING, "too_little_text_for_two_sides_is_refused_with_the_remedy")],
    "a validation document that is a training document": [
        (SPLITTING, "validation_documents_that_are_training_documents_are_refused_unless_asked_for"),
        (INPUTS, "validation_text_inside_training_text_is_an_error"),
    ],
    "a folder prepared with `--overlap keep`": [
        ("tests/hybrid/training/test_inputs.py", "a_folder_prepared_with_both_sides_sharing_documents_stops_the_run_unless_it_is_allowed"),
        ("tests/test_eval.py", "validation_text_that_was_trained_on_or_comes_twice_is_said"),
    ],
    "the same for shards of any origin": [("tests/hybrid/training/test_inputs.py", "documents_on_both_sides_stop_the_run_unless_they_are_allowed")],
    "validation documents that come twice in shards of other origin, or with `--keep-duplicates`": [
        ("tests/test_eval.py", "validation_text_that_was_trained_on_or_comes_twice_is_said")
    ],
    "with byte pieces": [(MANIFEST, "documents_come_back_byte_for_byte_from_every_kind_of_tokenizer")],
    "with `--challenge-encoding`": [(MANIFEST, "the_challenge_s_encoding_is_recorded_and_its_bytes_are_called_what_they_are")],
    "without a piece for a single space": [(TOKENIZER, "a_vocabulary_without_a_lone_space_spends_one_byte_piece_on_it")],
    "without byte pieces": [(MANIFEST, "what_a_tokenizer_without_byte_pieces_loses_is_refused_or_left_out_of_the_bytes")],
    "BOS that is not 1 (Gemma), or none (T5: its EOS)": [(TOKENIZER, "documents_begin_with_the_tokenizer_s_own_bos_or_else_its_eos")],
    "neither BOS nor EOS, more than 262,144 pieces": [
        (TOKENIZER, "a_tokenizer_with_nothing_to_begin_a_document_is_refused"),
        (TOKENIZER, "an_impossible_vocabulary_is_one_line"),
    ],
    "more than 65,535 pieces": [(SHARDS, "tokens_of_32_bits_make_a_wide_shard_that_only_their_vocabulary_reads")],
    "a wide shard (version 2) with a tokenizer of at most 65,535 pieces, or the other way round": [
        (SHARDS, "tokens_of_32_bits_make_a_wide_shard_that_only_their_vocabulary_reads")
    ],
    "`tokenizer.json`, or a Hugging Face folder with one (`pip install 'seedgram[hf]'`)": [
        (FOREIGN, "shards_hold_the_documents_byte_for_byte_and_are_divided_by_their_bytes")
    ],
    "with a manifest, and another tokenizer than the one given": [(MANIFEST, "another_tokenizer_of_the_same_size_is_an_error")],
    "without a manifest": [(MANIFEST, "without_a_manifest_the_text_tells_a_wrong_tokenizer")],
    "altered since they were prepared; two with the same tokens; of two origins in one folder; of an interrupted preparation": [
        (MANIFEST, "an_altered_shard_is_named"),
        (MANIFEST, "one_shard_under_two_names_is_an_error"),
        (MANIFEST, "shards_of_another_origin_beside_prepared_ones_are_an_error"),
    ],
    "a prepared folder in which anything is damaged or missing": [(PREPARE, "a_damaged_folder_is_prepared_again_and_not_called_complete")],
}


def rows() -> list[str]:
    """The first cell of every row, without what has tests of its own (data of the hub, parts of large texts, Hugging Face tokenizers)."""
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    text = re.sub(r"^## (?:Public data|Large texts)[^\n]*\n.*?(?=^## )", "", page, flags=re.DOTALL | re.MULTILINE)
    tables = re.findall(r"^\|(?P<head>[^|]*)\|.*\n\|---.*\n(?P<rows>(?:\|.*\n)+)", text, re.MULTILINE)
    return [line.split("|")[1].strip() for head, lines in tables if "Hugging Face" not in head for line in lines.splitlines()]


def test_every_row_has_a_test_and_every_test_named_here_a_row() -> None:
    assert len(rows()) > 20 and set(rows()) == set(SHOWN_BY)


@pytest.mark.parametrize("path", sorted({path for shown in SHOWN_BY.values() for path, _ in shown}))
def test_the_tests_are_there(path: str) -> None:
    functions = {node.name for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}
    named = {f"test_{name}" for shown in SHOWN_BY.values() for place, name in shown if place == path}
    assert named <= functions, named - functions
