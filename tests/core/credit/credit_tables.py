"""The least that cells to be binned come from."""


class Columns:
    def __init__(self, source="tax.csv", **columns):
        self.source = source
        self.columns = columns

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def column(self, name):
        return self.columns[name]
