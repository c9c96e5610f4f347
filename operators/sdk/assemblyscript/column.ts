/** What a column is. */

export enum Type {
  Timestamp,
  Tag,
  Float64,
  Uint32,
  String,
  Bool,
  Int64,
}

/** A column of the manifest. Only an "emit" operator makes a tag. */
export class Column {
  constructor(
    public name: string,
    public type: Type,
    public nullable: bool = false,
  ) {}
}
