"""Writes the text model of a Gemma 3 that takes images, for the worker: python reference/gemma3_text.py MODEL OUT

MODEL is a directory whose config.json has model_type gemma3 (the published 4b, 12b and 27b). OUT gets the language
model as model_type gemma3_text, in the dtype of the files, and MODEL's tokenizer and generation_config.json. The
whole model is held in memory once, and its text part a second time. Gemma3ForCausalLM does not read MODEL by itself:
its tensors have other names, and transformers would go on with random weights.
"""

import argparse
import shutil
from pathlib import Path

import torch
from transformers import Gemma3ForCausalLM, Gemma3ForConditionalGeneration

COPIED = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
]


@torch.no_grad()
def text_model(directory):
    whole = Gemma3ForConditionalGeneration.from_pretrained(directory, dtype="auto")
    text = Gemma3ForCausalLM(whole.config.text_config).to(whole.dtype)
    text.model.load_state_dict(whole.model.language_model.state_dict())
    text.lm_head.load_state_dict(whole.lm_head.state_dict())  # the embedding itself, where the two are tied
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="directory of the model that takes images")
    parser.add_argument("out", type=Path, help="directory to write; must not exist")
    arguments = parser.parse_args()
    text = text_model(arguments.model)
    arguments.out.mkdir(parents=True)
    text.save_pretrained(arguments.out)
    for name in COPIED:
        if (arguments.model / name).exists():
            shutil.copyfile(arguments.model / name, arguments.out / name)


if __name__ == "__main__":
    main()
