"""A character tokenizer, written as a Hugging Face tokenizer.json.

One token per Unicode character of the training text, ids in code point order. In tokenizer.json it is
BPE without merges: no normalizer and no pre-tokenizer, so a text is cut into its characters; the Fuse
decoder joins them again without spaces between.
"""

from pathlib import Path

from model import write_json


def build_vocabulary(text):
    """Characters of the text -> {character: id}."""
    return {character: idx for idx, character in enumerate(sorted(set(text)))}


def save_tokenizer(vocabulary, directory, model_max_length):
    """Writes tokenizer.json and tokenizer_config.json."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(
        directory / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": vocabulary,
                "merges": [],
            },
        },
    )
    write_json(
        directory / "tokenizer_config.json",
        {
            # Without this class transformers treats the directory as byte-level GPT-2 and drops spaces and newlines.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": model_max_length,
        },
    )
