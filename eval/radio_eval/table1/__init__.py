"""The paper's Table 1: models in rows, tasks in columns, our numbers beside the paper's."""
