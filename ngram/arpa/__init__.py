"""ARPA files in and out, for models that other toolkits make or read."""
