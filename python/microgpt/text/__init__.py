"""TEXT -> IDS: the tokenizer, and corpora that are known."""
