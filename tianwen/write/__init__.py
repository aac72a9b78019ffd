"""A language model that learns from text files and writes on as a stream, with any mixer in the place of attention.

Post: 9554

    characters.py      what the model reads and writes: every character, nothing lost
    text_files.py      files to one array of ids, with the beginnings of documents
    language_model.py  the shell of `tianwen.backbone.mixers`, causal, with a tied head
    sampling.py        the next character
    model_files.py     a trained model on disk
    learning.py        training
    writer.py          writing on, in constant memory
"""
