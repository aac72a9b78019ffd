"""Hold your own causal language model to a catalogue of titles: `generate` can write these and nothing else.

    python examples/titles_with_your_model.py [MODEL]

MODEL is the name or folder of any causal model of transformers. Without one, a GPT-2 of 60,000 parameters learns ten
descriptions in a few seconds: enough to see the plug at work, and no measure of how well a real model chooses.

Post: 8802
"""

import random
import sys

import torch

from tianwen.ask.huggingface import CatalogueLogitsProcessor, tokenized_catalogue

try:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers
except ImportError:
    print("This example needs transformers: pip install 'tianwen[hf]'")
    sys.exit(0)

BOOKS = {
    "a whale hunted by a captain": "Moby-Dick",
    "a doctor makes a living being": "Frankenstein",
    "a madman fights windmills": "Don Quixote",
    "a journey below the sea": "Twenty Thousand Leagues under the Seas",
    "a journey to the moon": "From the Earth to the Moon",
    "a journey in eighty days": "Around the World in Eighty Days",
    "a journey to the west for scriptures": "Journey to the West",
    "a dream of a great house falling": "Dream of the Red Chamber",
    "three states at war": "Romance of the Three Kingdoms",
    "three sisters and their sorrow": "Three Sisters",
}
ASKED = [
    "captain of a whale",
    "windmills",
    "to the moon",
    "sisters and sorrow",
    "war of three states",
    "the sea below the moon",
]


def tiny_model():
    """A tokenizer of words and a random GPT-2 that learns the titles from some of the words of their descriptions."""
    words = sorted({word for pair in BOOKS.items() for text in pair for word in text.split()})
    pieces = {piece: i for i, piece in enumerate(["<end>", "<unk>", ":", *words])}
    inner = Tokenizer(models.WordLevel(pieces, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")
    torch.manual_seed(0)
    shape = {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": len(pieces)}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, bos_token_id=0, eos_token_id=0))
    optimizer, chance = torch.optim.AdamW(model.parameters(), lr=3e-3), random.Random(0)
    for _ in range(120):
        texts = []
        for text, title in [*BOOKS.items()] * 3:
            some = [word for word in text.split() if chance.random() < 0.7]
            texts.append(f"{' '.join(some)} : {title} <end>")
        batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        ids, present = batch["input_ids"], batch["attention_mask"]
        logits = model(ids, attention_mask=present).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits[present[:, 1:] > 0], ids[:, 1:][present[:, 1:] > 0])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return tokenizer, model.eval()


def main() -> None:
    if len(sys.argv) > 1:
        tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1], padding_side="left")
        model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        prefix = " "  # most vocabularies begin a word with its space
    else:
        (tokenizer, model), prefix = tiny_model(), ""
        tokenizer.padding_side = "left"

    titles = list(BOOKS.values())
    trie, row_of_title = tokenized_catalogue(titles, tokenizer, prefix=prefix)
    title_of_row = dict(zip(row_of_title.tolist(), titles, strict=True))
    prompts = tokenizer([f"{text} :" for text in ASKED], padding=True, return_tensors="pt")
    hold = CatalogueLogitsProcessor(
        trie,
        prompt_len=prompts["input_ids"].shape[1],
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    common = {"max_new_tokens": 64, "pad_token_id": tokenizer.pad_token_id, "do_sample": False, "num_beams": 3}
    ids = {name: prompts[name] for name in ("input_ids", "attention_mask")}
    free = model.generate(**ids, **common)
    held = model.generate(**ids, **common, logits_processor=[hold], length_penalty=0.0)  # the likeliest entry
    rows, _ = trie.rows(hold.finished(held))  # every sequence is an entry, and here is which
    for text, row, wild in zip(ASKED, rows.tolist(), free, strict=True):
        alone = tokenizer.decode(wild[hold.reader.prompt_len :], skip_special_tokens=True)
        print(f"{text} -> {title_of_row[row]}   (on its own: {alone.strip()!r})")


if __name__ == "__main__":
    main()
