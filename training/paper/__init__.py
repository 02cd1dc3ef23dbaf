"""The paper's tables: which rows there are, how each is trained and scored, and how ours stand beside the printed."""
