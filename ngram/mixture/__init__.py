"""The strongest n-gram predictor: orders, words, recency and matches mixed along a Huffman tree."""
