"""Pods as container groups of Alibaba Cloud ECI, through its OpenAPI (version 2018-08-08)."""
