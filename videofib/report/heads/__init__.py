"""What the attention heads of a model do: which labels each recognises, and what is lost without it."""
