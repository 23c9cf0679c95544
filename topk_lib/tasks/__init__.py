"""What the applied chapters are made of: answers, summaries, names, translations."""
