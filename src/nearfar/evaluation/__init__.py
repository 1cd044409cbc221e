"""From anomaly scores to tables: the official metrics, the report's Table 1, figures."""
