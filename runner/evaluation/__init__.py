"""Forecasts as they were issued, held against what came true."""
