"""The cache that goes on counting while it scores, and the match model beside it."""
