"""What a split holds, what is missing, and what of its test clips stands in train."""
