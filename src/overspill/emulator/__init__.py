"""Alibaba Cloud ECI's OpenAPI, served over any of our backends."""
