"""Counting n-grams exactly: sorted runs, merged in the background, summed over ranks; Kneser–Ney discounts."""
