"""What words mean, by vectors that others counted on billions of words: a table of them, where they stand in a text,
and what they add to a small network that has read little."""
