//! Text around a model: tokenizer, chat template, incremental detokenise, stop strings.
